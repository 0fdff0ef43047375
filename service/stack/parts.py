"""The parts of a stack: what each of them is, how it is started and ended, and how to see that it is well."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import ClassVar

import psutil

from jobs.errors import RecoError
from service.child import end_with_parent
from service.stack import processes
from service.stack.layout import Layout
from service.stack.processes import Process

_LOG_LIMIT = 20 << 20
_POLL_S = 0.05


class PartError(RecoError):
    """A part of the stack cannot be started."""


class Part(ABC):
    """One part.

    Attributes:
        name: In the record and in tables.
        needs: Parts that must be up before it is started.
        log: What it prints.
        start_s: Longest time from its start until it is well.
        grace_s: Longest time from being asked to end until it has ended.
    """

    start_s: ClassVar[float] = 120.0
    grace_s: ClassVar[float] = 15.0

    def __init__(self, name: str, log: Path, *, needs: tuple[str, ...] = ()) -> None:
        self.name, self.log, self.needs = name, log, needs

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers; empty where nobody has to ask it."""

    @abstractmethod
    def start(self, stopping: Event) -> Process | None:
        """Start it, after ending what is left of an earlier one.

        Args:
            stopping: Set once nobody wants it any more; it is left half-started then, for `stop` to clear away.

        Returns:
            Its process; None where it has none here.

        Raises:
            RecoError: It cannot be started.
            OSError: The system refuses.
        """

    @abstractmethod
    def trouble(self, process: Process | None) -> str | None:
        """What is wrong with it, in a few words; None where it is well."""

    @abstractmethod
    def stop(self, process: Process | None) -> None:
        """End it and whatever it has started; does no harm where it does not run."""

    def last_words(self) -> str:
        """The end of its log, in a line."""
        return last_words(self.log)


class Program(Part):
    """A part that is one process of its own, with what it starts.

    Args:
        name: In the record and in tables.
        command: What runs.
        layout: Of the stack.
        environment: Asked for at each start: it names other parts.
        well: What is wrong with it; None where nothing is.
        words: Of its command, which tell it from jobs that inherited its marks; empty where none may outlive it.
        url: Where it answers.
        needs: Parts that must be up before it is started.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], list[str]],
        layout: Layout,
        *,
        environment: Callable[[], Mapping[str, str]],
        well: Callable[[Process], str | None],
        words: str = "",
        url: str = "",
        needs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, layout.log(name), needs=needs)
        self._command, self._environment, self._well = command, environment, well
        self._layout, self._words, self._url = layout, words, url

    @property
    def url(self) -> str:
        """See `Part.url`."""
        return self._url

    def start(self, stopping: Event) -> Process | None:
        """See `Part.start`."""
        # Of one whose supervisor was killed before it could note its number, or whose children outlived it.
        processes.kill(self._remains())
        command = self._command()
        started = launch(command, self.log, {**self._environment(), **self._marks()}, cwd=self._layout.folder)
        process = Process.of(started.pid)
        if process is None:
            raise PartError(f"it ended at once (exit code {started.wait()}): {self.last_words()}")
        return process

    def trouble(self, process: Process | None) -> str | None:
        """See `Part.trouble`."""
        return "it does not run" if process is None else self._well(process)

    def stop(self, process: Process | None) -> None:
        """See `Part.stop`."""
        family = [] if process is None else process.family()
        if process is not None:
            end(process, self.grace_s)
        processes.kill([*(each for each in family if each.is_running()), *self._remains()])

    def _marks(self) -> Mapping[str, str]:
        return processes.marks(str(self._layout.home), self.name)

    def _remains(self) -> list[psutil.Process]:
        return processes.marked(str(self._layout.home), self.name, self._words)


def launch(
    command: list[str], log: Path, environment: Mapping[str, str], *, cwd: Path, tied: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process that hears no Ctrl-C; what it prints is appended to a log.

    Args:
        command: What runs.
        log: Is begun anew when it has become long.
        environment: All of it.
        cwd: Where it runs.
        tied: It is told to end when this process ends; else it outlives it.
    """
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".old.log"))
    with log.open("ab") as file:
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} started by {os.getpid()}\n".encode())
        file.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=end_with_parent if tied else None,
        )


def end(process: Process, grace_s: float) -> None:
    """Ask a process to end, and wait for that; not longer than the grace period."""
    deadline = time.monotonic() + grace_s
    if process.signal(signal.SIGTERM):
        while process.alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def last_words(log: Path, lines: int = 4) -> str:
    """The last lines of a log, in one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return "it left no log"
    said = text.rpartition("\n--- ")[2].splitlines()[1:] if "--- " in text else text.splitlines()
    told = [line.strip() for line in said if line.strip()]
    return " | ".join(told[-lines:])[-600:] or "it printed nothing"


def program(name: str) -> str | None:
    """A program beside this Python, or else on the path."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)
