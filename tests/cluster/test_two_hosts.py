"""Pretraining across two hosts, from an S3 server to a registered encoder, each part on a host of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from jobs.run_folder import RunFolder
from tests.cluster.hosts import Host, network, program
from tests.pictures import tiny_spec, write_shards

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2 for hosts"),
]

KEYS = {"AWS_ACCESS_KEY_ID": "cluster-key", "AWS_SECRET_ACCESS_KEY": "cluster-secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    base = Path("/var/tmp")
    path = Path(tempfile.mkdtemp(prefix="reco-cluster-", dir=base))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def hosts(folder: Path) -> Iterator[dict[str, Host]]:
    with network(folder, ["head", "one", "two", "storage", "tracking"]) as made:
        yield made


@pytest.fixture(scope="module")
def environment(hosts: dict[str, Host], folder: Path) -> dict[str, str]:
    """What every host knows: where the others are."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **keep,
        **KEYS,
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


@pytest.fixture(scope="module")
def cluster(hosts: dict[str, Host], environment: dict[str, str], folder: Path) -> dict[str, Host]:
    """An S3 server with keys, an MLflow server, and Ray: a head without CPUs and two workers."""
    buckets = folder / "buckets"
    for name in ("data", "runs"):
        (buckets / name).mkdir(parents=True)
    write_shards(buckets / "data" / "train", samples=400)
    write_shards(buckets / "data" / "probe", samples=80, seed=1)
    storage, tracking, head = hosts["storage"], hosts["tracking"], hosts["head"]
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    storage.start(
        f"{program('rclone')} serve s3 --addr {storage.address}:9000 --auth-key {keys} {buckets} --config {os.devnull}",
        environment,
        log="s3",
    )
    store = folder / "mlflow"
    tracking.start(
        f"{program('mlflow')} server --host {tracking.address} --port 5000 --workers 1 "
        f"--allowed-hosts {tracking.address}:5000 "
        f"--backend-store-uri sqlite:///{store}.db --artifacts-destination {store}",
        environment,
        log="mlflow",
    )
    started = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    head.start(
        f"{program('ray')} start --head --node-ip-address {head.address} --port 6379 --num-cpus 0 "
        f"--dashboard-host {head.address} --object-store-memory {100 << 20} --block",
        started,
        log="ray",
    )
    head.await_port(6379)
    for name in ("one", "two"):
        host = hosts[name]
        host.start(
            f"{program('ray')} start --address {head.address}:6379 --node-ip-address {host.address} --num-cpus 1 "
            f"--object-store-memory {100 << 20} --block",
            started,
            log="ray",
        )
    storage.await_port(9000)
    tracking.await_port(5000)
    deadline = time.monotonic() + 90
    listing = ""
    while listing.count(" node_") < 3:
        assert time.monotonic() < deadline, f"the cluster is not complete:\n{listing}\n{head.log('ray')}"
        time.sleep(1)
        listing = head.run(f"{program('ray')} status --address {head.address}:6379", started, timeout=60, check=False)
    return hosts


def test_two_hosts_train_from_s3_and_register_an_encoder(
    cluster: dict[str, Host], environment: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = folder / "run.yaml"
    text = tiny_spec(Path("s3-train"), probe=Path("s3-probe"), scale__workers=2, register="{model: two-hosts}")
    spec.write_text(text.replace("s3-", "s3://data/"))
    printed = cluster["head"].run(
        f"{program('reco')} pretrain {spec} --run-id first --storage s3://runs/pretraining",
        environment,
        timeout=280,
    )
    assert "registered two-hosts/1 as candidate" in printed
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    run = RunFolder("s3://runs/pretraining", "first")
    outcome = run.outcome()
    assert outcome is not None
    assert outcome["status"] == "succeeded"
    assert outcome["results"]["valid/knn"] > 50
    steps = [record["step"] for record in run.records()]
    assert steps == sorted(set(steps))
    assert any(record["metrics"]["data/bytes_per_s"] > 0 for record in run.records())
    # Both hosts trained: each has the log of a worker.
    for name in ("one", "two"):
        logs = list((folder / name / "tmp" / "ray").rglob("worker-*.err"))
        assert logs, f"no worker ran on {name}"
    client = boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], config=Config(s3={"addressing_style": "path"})
    )
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="runs")["Contents"]]
    assert any(key.endswith("manifest.json") for key in keys)
    print(json.dumps(outcome))
