"""Processes by a name that is theirs for good: found again after a crash, and ended with all they have started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

from service.backends.local_wrapper import boot_id, start_ticks

STACK = "RECO_STACK"
"""Of every process of a stack: its home. Whatever is started by one has it too, so that nothing is left behind."""
PART = "RECO_STACK_PART"
"""Which part of the stack a process belongs to."""


class Process(BaseModel):
    """One process, and never another that got its number later.

    Attributes:
        pid: Its number.
        ticks: When it was started, in the kernel's ticks.
        boot: In which life of the machine.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The one that has this number now; None where there is none."""
        ticks = start_ticks(pid)
        return None if ticks is None else cls(pid=pid, ticks=ticks, boot=boot_id())

    @property
    def alive(self) -> bool:
        """Whether it is still there; one that has ended and waits to be reaped is not."""
        return self.boot == boot_id() and start_ticks(self.pid) == self.ticks

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; False where it is gone."""
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # The descriptor is of one process for good, so what is alive now is what is signalled.
            if not self.alive:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            return True
        finally:
            os.close(process)

    def family(self) -> list[psutil.Process]:
        """Itself and all that it started, as far as that still hangs on it; nothing where it is gone."""
        if not self.alive:
            return []
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def marks(home: str, part: str) -> Mapping[str, str]:
    """Variables that tell which stack and which part of it a process belongs to."""
    return {STACK: home, PART: part}


def marked(home: str, part: str | None = None, words: str = "") -> list[psutil.Process]:
    """Processes of a part, found by their marks: the record and their parents may be gone.

    Args:
        home: Of the stack.
        part: Its name; None for all parts.
        words: Only those with these in their command: jobs on this machine inherit a leader's marks, and outlive it.
    """
    me = psutil.Process()
    user, found = me.username(), []
    for process in psutil.process_iter(["username"]):
        if process.pid == me.pid or process.info["username"] != user:
            continue
        with contextlib.suppress(psutil.Error):  # it has just ended
            environment = process.environ()
            mine = environment.get(STACK) == home and part in (None, environment.get(PART))
            if mine and process.status() != psutil.STATUS_ZOMBIE and words in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill(processes: Iterable[psutil.Process], *, wait_s: float = 10.0) -> None:
    """End processes at once, and wait until they are gone."""
    chosen = list(processes)
    for process in chosen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(chosen, timeout=wait_s)
