"""A Ray cluster, an S3 server and an MLflow server, each on a host of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, network, program, why_no_hosts
from tests.pictures import write_shards

KEYS = {"AWS_ACCESS_KEY_ID": "cluster-key", "AWS_SECRET_ACCESS_KEY": "cluster-secret", "AWS_REGION": "us-east-1"}
_OBJECT_STORE = f"--object-store-memory {100 << 20}"


@dataclass(frozen=True)
class Cluster:
    """The hosts by name (head, one, two, storage, tracking), and what each of them knows.

    Attributes:
        hosts: By name.
        environment: Where the others are, for every command.
        folder: What all hosts see; buckets and MLflow's store are in it.
    """

    hosts: dict[str, Host]
    environment: dict[str, str]
    folder: Path

    def start_storage(self) -> None:
        """An S3 server, which wants keys."""
        host = self.hosts["storage"]
        keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
        buckets = self.folder / "buckets"
        host.start(
            f"{program('rclone')} serve s3 --addr {host.address}:9000 --auth-key {keys} {buckets} "
            f"--config {os.devnull}",
            self.environment,
            log="s3",
        )
        host.await_port(9000)

    def start_tracking(self) -> None:
        """An MLflow server over SQLite."""
        host = self.hosts["tracking"]
        store = self.folder / "mlflow"
        host.start(
            f"{program('mlflow')} server --host {host.address} --port 5000 --workers 1 "
            f"--allowed-hosts {host.address}:5000 "
            f"--backend-store-uri sqlite:///{store}.db --artifacts-destination {store}",
            self.environment,
            log="mlflow",
        )
        host.await_port(5000)

    def start_head(self) -> None:
        """Ray's head, without CPUs."""
        head = self.hosts["head"]
        head.start(
            f"{program('ray')} start --head --node-ip-address {head.address} --port 6379 --num-cpus 0 "
            f"--dashboard-host {head.address} {_OBJECT_STORE} --block",
            self._without_address,
            log="ray",
        )
        head.await_port(6379)

    def start_worker(self, name: str) -> subprocess.Popen[bytes]:
        """A host with one CPU joins Ray; the process ends when Ray no longer knows the host."""
        host = self.hosts[name]
        return host.start(
            f"{program('ray')} start --address {self.environment['RAY_ADDRESS']} --node-ip-address {host.address} "
            f"--num-cpus 1 {_OBJECT_STORE} --block",
            self._without_address,
            log="ray",
        )

    def nodes(self) -> dict[str, str]:
        """Ray's id of every node that is alive, by address."""
        script = "import ray; ray.init(logging_level='ERROR'); " + (
            "print(*(n['NodeManagerAddress'] + '=' + n['NodeID'] for n in ray.nodes() if n['Alive']))"
        )
        printed = self.hosts["head"].run(
            f"{program('python')} -c {script!r}", self.environment, timeout=60, check=False
        )
        words = printed.splitlines()[-1].split() if printed else []
        return dict(word.split("=", 1) for word in words if "=" in word)

    def await_nodes(self, *names: str) -> None:
        """Wait until exactly these hosts are up in Ray."""
        deadline = time.monotonic() + 120
        while (there := set(self.nodes())) != {self.hosts[name].address for name in names}:
            assert time.monotonic() < deadline, f"Ray has {there}\n{self.hosts['head'].log('ray')}"
            time.sleep(1)

    @property
    def _without_address(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}


@pytest.fixture(scope="package")  # its daemons would slow down all the tests that follow
def cluster() -> Iterator[Cluster]:
    """All of it running, with pictures in s3://data/train and s3://data/probe, and an empty bucket s3://runs."""
    if (why := why_no_hosts()) is not None:
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="reco-cluster-", dir="/var/tmp"))
    for name in ("data", "runs"):
        (folder / "buckets" / name).mkdir(parents=True)
    write_shards(folder / "buckets" / "data" / "train", samples=400)
    write_shards(folder / "buckets" / "data" / "probe", samples=80, seed=1)
    with network(folder, ["head", "one", "two", "storage", "tracking"]) as hosts:
        cluster = Cluster(hosts, _environment(hosts, folder), folder)
        cluster.start_storage()
        cluster.start_head()
        for name in ("one", "two"):
            cluster.start_worker(name)
        cluster.start_tracking()
        cluster.await_nodes("head", "one", "two")
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


def _environment(hosts: dict[str, Host], folder: Path) -> dict[str, str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **keep,
        **KEYS,
        # A job that only says `python` gets this one, as in the image of a real cluster.
        "PATH": f"{Path(sys.executable).parent}:{keep.get('PATH', os.defpath)}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "AWS_ENDPOINT_URL": f"http://{hosts['storage'].address}:9000",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_TRACKING_URI": f"http://{hosts['tracking'].address}:5000",
        "RAY_ADDRESS": f"{hosts['head'].address}:6379",
        "GLOO_SOCKET_IFNAME": "eth0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RECO_HOME": str(folder / "home"),
    }


@pytest.fixture
def as_a_host(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test itself the hosts' keys and addresses."""
    for name, value in cluster.environment.items():
        if name.startswith(("AWS_", "MLFLOW_")):
            monkeypatch.setenv(name, value)
