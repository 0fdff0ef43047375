"""Reads under way and what they came to, for whoever has to say what a run waits for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Totals:
    """Since the process began.

    Attributes:
        bytes_read: Over the network or from a disk; what a cache fetches and then serves counts twice.
        retries: Requests that had to be made again.
    """

    bytes_read: int
    retries: int


@dataclass
class Read:
    """One read under way.

    Attributes:
        where: The object's URL.
        start: First byte wanted.
        stop: The byte after the last.
        host: Who is asked for them.
        began: On the monotonic clock.
        done: Bytes that are here.
        failures: Requests that failed so far.
        fault: How the last one failed.
    """

    where: str
    start: int
    stop: int
    host: str
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    failures: int = 0
    fault: str = ""

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        text = f"{self.where} bytes {self.start}..{self.stop} from {self.host} for {seconds:.0f} s, {self.done} here"
        return f"{text}, {self.failures} failed requests ({self.fault})" if self.failures else text


class Activity:
    """Every ranged read of this process. Safe to use from many threads."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[int, Read] = {}
        self._bytes_read = 0
        self._retries = 0

    @contextlib.contextmanager
    def reading(self, where: str, start: int, stop: int, host: str) -> Iterator[Read]:
        """Announce a read for as long as the body runs; the body keeps `done` and `failures` up to date."""
        read = Read(where, start, stop, host)
        with self._lock:
            self._reads[id(read)] = read
        try:
            yield read
        finally:
            with self._lock:
                self._reads.pop(id(read), None)
                self._bytes_read += read.done
                self._retries += read.failures

    def under_way(self) -> list[Read]:
        """Reads that have not ended, longest first."""
        with self._lock:
            return sorted(self._reads.values(), key=lambda read: read.began)

    def counters(self) -> Totals:
        """What this process has read so far; reads under way count when they end."""
        with self._lock:
            return Totals(self._bytes_read, self._retries)


ACTIVITY = Activity()
"""This process's."""

# The parent's reads are not the child's, and another thread may have held the lock at the moment of the fork.
os.register_at_fork(after_in_child=ACTIVITY._begin)
