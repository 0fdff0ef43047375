"""A rank that makes no progress says where it stands and ends, so that the run goes on without waiting for it."""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from jobs.errors import RecoError
from jobs.run_folder import RunFolder, Stall

_log = logging.getLogger(__name__)

ORDER = ("starting", "wait", "views", "forward", "backward", "update", "logging", "probing", "saving")
"""What a rank is at, in the order of a step."""
_LOOK_S = 0.5
_GRACE_S = 5.0
"""From a rank's report to its end, for the ranks that wait for it, or that it waits for, to report as well."""
_REPORT_S = 10.0
"""Longest time to try to write the report: the storage may be what it waits for."""
EXIT_CODE = 75
"""Of a process that ended for want of progress: EX_TEMPFAIL of sysexits.h."""


class Watchdog:
    """Watches one rank from a thread of its own, which runs while the main one waits in a collective.

    Where a rank hangs, the others soon wait for it in a collective, and end as well: `culprit` tells them apart.

    Args:
        folder: The run's folder, for the report.
        rank: Whose progress this is.
        limit_s: Seconds without progress that are too many.
        end: Ends the process.
    """

    def __init__(
        self, folder: RunFolder, *, rank: int, limit_s: float, end: Callable[[int], object] = os._exit
    ) -> None:
        self._folder, self._rank, self._limit_s, self._end = folder, rank, limit_s, end
        self._at = (time.monotonic(), 0, "starting")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def enter(self, phase: str, step: int) -> None:
        """This rank has completed so many steps and is at that phase of `ORDER` now: that is progress."""
        self._at = (time.monotonic(), step, phase)

    def _watch(self) -> None:
        while not self._over.wait(min(_LOOK_S, self._limit_s / 2)):
            since, step, phase = stood = self._at
            seconds = time.monotonic() - since
            if seconds <= self._limit_s:
                continue
            self._report(seconds, step, phase)
            if not self._over.wait(_GRACE_S) and self._at == stood:
                self._end(EXIT_CODE)
                return

    def _report(self, seconds: float, step: int, phase: str) -> None:
        stall: Stall = {
            "rank": self._rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "step": step,
            "phase": phase,
            "seconds": round(seconds, 1),
            "stacks": _stacks(),
        }
        _log.critical("%s\n%s", described(stall), stall["stacks"])

        def write() -> None:
            try:
                self._folder.write_stall(stall)
            except (RecoError, OSError) as error:
                _log.warning("the report cannot be kept: %s", error)

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(_REPORT_S)


def culprit(stalls: Sequence[Stall]) -> Stall:
    """Of ranks that stalled together the one that got least far: the others waited for it."""
    return min(stalls, key=lambda stall: (stall["step"], ORDER.index(stall["phase"])))


def described(stall: Stall) -> str:
    """What stalled and where, in a line."""
    return (
        f"rank {stall['rank']} on {stall['host']} (process {stall['pid']}) made no progress for "
        f"{stall['seconds']:.0f} s after step {stall['step']}, in phase {stall['phase']}"
    )


def _stacks() -> str:
    """Of all threads; faulthandler writes to real files only."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
