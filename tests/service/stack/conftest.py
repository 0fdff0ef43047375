"""A stack of a test's own: its home, `reco` on it, and the certainty that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from service.stack import processes
from service.stack.layout import Layout
from service.stack.record import PartRecord, StackRecord, read

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Stack:
    """A home that `reco up` works in.

    Attributes:
        home: RECO_HOME.
        given: More variables.
    """

    home: Path
    given: dict[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    @property
    def record(self) -> StackRecord:
        return read(self.layout.record)

    def part(self, name: str) -> PartRecord:
        return self.record.parts[name]

    def pid(self, name: str) -> int:
        process = self.record.supervisor if name == "supervisor" else self.part(name).process
        assert process is not None
        return process.pid

    def kill(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGKILL)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """`reco` with these words, under way."""
        others = ("RAY_", "AWS_", "RECO_", "MLFLOW_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        environment = kept | {"RECO_HOME": str(self.home), "OMP_NUM_THREADS": "1"} | self.given
        command = [sys.executable, "-P", "-m", "service.cli.main", *words]
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def reco(self, *words: str, code: int = 0) -> str:
        """Run `reco`; returns all that it printed."""
        process = self.begin(*words)
        printed = "\n".join(process.communicate(timeout=PATIENCE_S))
        assert process.returncode == code, f"exit code {process.returncode}: {printed}"
        return printed

    def until(self, holds: Callable[[StackRecord], bool]) -> StackRecord:
        """Wait until the record says so."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds(record := self.record):
            assert time.monotonic() < deadline, record
            time.sleep(0.05)
        return record

    def left(self) -> list[str]:
        """Commands of its processes that are still there: each has the home in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.home) in process.environ().get("RECO_HOME", "") and process.pid != os.getpid():
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's folders: the paths of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="reco-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def stack(home: Path, uri: str) -> Iterator[Stack]:
    """Without Ray, and with an MLflow server that all tests share."""
    stack = Stack(home, {"MLFLOW_TRACKING_URI": uri})
    yield stack
    end(stack)


def end(stack: Stack) -> None:
    """Whatever a test that went wrong has left."""
    supervisor = stack.record.supervisor
    if supervisor is not None:
        supervisor.signal(signal.SIGKILL)
    processes.kill(processes.marked(str(stack.home)))
    stack.reco("down")
