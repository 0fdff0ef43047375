"""A record of work under way, kept at its destination, so that whoever is stopped can go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jobs.storage import Storage

_SHARE = 0.05


class Journal:
    """One object that is written again and again while work goes on, and removed at the end.

    It grows with the work, so writing it after each step would at last cost more than the work itself: it is written
    as often as a twentieth of the time allows, and whenever `keep` is called. May be used from several threads.

    Args:
        place: Where it lies.
        name: Its key.
        render: Gives its content as of now; called by one thread at a time.
    """

    def __init__(self, place: Storage, name: str, render: Callable[[], bytes]) -> None:
        self._place = place
        self._name = name
        self._render = render
        self._lock = threading.Lock()
        self._next = 0.0

    def note(self) -> None:
        """Say that a step is done; writes the journal if it is time.

        Raises:
            StorageError: It cannot be written.
        """
        if self._lock.acquire(blocking=False):  # whoever is writing it now will be followed by the next step
            try:
                if time.monotonic() >= self._next:
                    self._write()
            finally:
                self._lock.release()

    def keep(self) -> None:
        """Write the journal now; see `note`."""
        with self._lock:
            self._write()

    def remove(self) -> None:
        """Remove it: the work is whole."""
        with self._lock:
            self._place.delete(self._name)

    def _write(self) -> None:
        began = time.monotonic()
        self._place.write(self._name, self._render())
        ended = time.monotonic()
        self._next = ended + (ended - began) / _SHARE
