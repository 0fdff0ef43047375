"""A Ray head with its job server and token authentication, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.backends.base import UnreachableBackendError
from service.backends.ray_jobs import RayJobsBackend
from tests.s3 import free_port

_START_S = 90.0


@dataclass(frozen=True)
class RayHead:
    """One that runs.

    Attributes:
        address: Of its job server.
        port: That other nodes join at.
        token: What it wants.
        process: `ray start --block`.
        folder: What it writes, sockets and logs.
    """

    address: str
    port: int
    token: str
    process: subprocess.Popen[bytes]
    folder: Path

    def daemons(self, words: str = "") -> list[psutil.Process]:
        """Its processes whose command has these words."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """All of it, at once."""
        _kill(self.process)

    @contextlib.contextmanager
    def joined(self) -> Iterator[subprocess.Popen[bytes]]:
        """A second node, with two CPUs, as long as the context lasts or it is killed."""
        command = f"start --address 127.0.0.1:{self.port} --node-ip-address 127.0.0.1 --num-cpus 2"
        command += f" --dashboard-agent-listen-port {free_port()} --object-store-memory {100 << 20} --block"
        process = _start(command, self.folder, self.token)
        try:
            yield process
        finally:
            _kill(process)


@contextlib.contextmanager
def serve_ray(*, cpus: int = 2) -> Iterator[RayHead]:
    """A head, as long as the context lasts."""
    token = secrets.token_hex(32)
    port, dashboard_port = free_port(), free_port()
    # Not pytest's folders: the paths of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "home").mkdir()
        command = f"start --head --node-ip-address 127.0.0.1 --port {port} --num-cpus {cpus} --disable-usage-stats"
        command += f" --dashboard-host 127.0.0.1 --dashboard-port {dashboard_port}"
        command += f" --dashboard-agent-listen-port {free_port()} --object-store-memory {100 << 20}"
        command += f" --include-log-monitor false --temp-dir {folder / 'tmp'} --block"
        head = RayHead(f"http://127.0.0.1:{dashboard_port}", port, token, _start(command, folder, token), folder)
        try:
            _await(head)
            yield head
        finally:
            head.kill()


def _start(command: str, folder: Path, token: str) -> subprocess.Popen[bytes]:
    ray = Path(sys.executable).with_name("ray")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment |= {"HOME": str(folder / "home"), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [str(ray), *command.split()], env=environment, stdout=log, stderr=log, start_new_session=True
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for daemon in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                daemon.kill()
    process.kill()
    process.wait()


def _await(head: RayHead) -> None:
    backend = RayJobsBackend(head.address, head.token)
    deadline = time.monotonic() + _START_S
    while True:
        try:
            backend.look("none")
            return
        except UnreachableBackendError:
            if time.monotonic() > deadline or head.process.poll() is not None:
                raise RuntimeError((head.folder / "log").read_text()) from None
            time.sleep(0.2)
