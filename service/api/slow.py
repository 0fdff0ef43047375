"""Work that keeps a thread for long: only a few of the threads that serve requests are at it at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.api.errors import BusyError

_WAIT_S = 1.0


class Few:
    """Lets a few callers in at once, and tells the others to come back: waiting, they would keep threads, too.

    Args:
        most: That many.
        what: What it is, in words.
        wait_s: Longest that one waits for another to be done.
    """

    def __init__(self, most: int, what: str, *, wait_s: float = _WAIT_S) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._most, self._what, self._wait_s = most, what, wait_s

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Be one of them.

        Raises:
            BusyError: There are as many as there may be.
        """
        if not self._free.acquire(timeout=self._wait_s):
            raise BusyError(f"{self._most} callers wait for {self._what} already.", hint="Ask again in a moment.")
        try:
            yield
        finally:
            self._free.release()


@dataclass(frozen=True)
class Slow:
    """What takes long.

    Attributes:
        data: Reads the indexes of data sets, whose storage may be away: plans, and the list of data sets.
        gates: Asks the gates of a champion, for minutes: promotion and rollback.
    """

    data: Few = field(default_factory=lambda: Few(4, "the storage of data sets"))
    gates: Few = field(default_factory=lambda: Few(4, "the gates"))
