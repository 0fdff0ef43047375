"""How long a trainer waits for its loader process, and what it says meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.child import DiedError
from jobs.errors import RecoError
from jobs.loading.messages import Waiting

_log = logging.getLogger(__name__)


class StalledError(RecoError):
    """No data came for too long."""


@dataclass(frozen=True)
class Patience:
    """How long a trainer waits for a batch, or for a data set to open, in seconds.

    Attributes:
        warn: Say what is being waited for, again and again.
        fail: Give up.
    """

    warn: float = 30.0
    fail: float = 900.0


PATIENCE = Patience()


class Wait:
    """One wait for the loader process: every so often it is asked what it is at.

    Args:
        patience: When to say something, and when to give up.
        ask: Asks the process; None where it does not answer.
        what: What is waited for, in words.
        no_reads: What it must be where the process reads nothing.
        moving: Whether bytes that are read are reason enough to go on: an index of a large bucket takes hours.
    """

    def __init__(
        self, patience: Patience, ask: Callable[[], Waiting | None], what: str, *, no_reads: str, moving: bool = False
    ) -> None:
        self._patience = patience
        self._ask = ask
        self._what = what
        self._no_reads = no_reads
        self._moving = moving
        self._bytes_read = -1
        self._began = self._moved = time.monotonic()
        self._due = self._began + patience.warn

    def left(self) -> float:
        """Seconds until the process should be asked."""
        return max(0.0, self._due - time.monotonic())

    def explain(self) -> None:
        """Say what is waited for.

        Raises:
            DiedError: The process does not answer.
            StalledError: The wait is too long.
        """
        answer, now = self._ask(), time.monotonic()
        self._due = now + self._patience.warn
        if answer is None:
            _log.warning("no %s for %.0f s, and the loader process does not answer: it is ended", *self._since(now))
            raise DiedError("it did not answer")
        reads = "; ".join(answer.reads[:3]) or f"no read is under way: {self._no_reads}"
        if self._moving and answer.bytes_read > self._bytes_read:
            self._bytes_read, self._moved = answer.bytes_read, now
            _log.info(
                "no %s for %.0f s, %.3f GB read; waiting for %s", *self._since(now), answer.bytes_read / 1e9, reads
            )
            return
        _log.warning("no %s for %.0f s, waiting for %s", *self._since(now), reads)
        if now - self._moved >= self._patience.fail:
            raise StalledError(
                f"No {self._what} came for {now - self._moved:.0f} s; the loader waits for {reads}.",
                hint="Look at that server and the way to it; the run continues from its last checkpoint.",
            )

    def _since(self, now: float) -> tuple[str, float]:
        return self._what, now - self._began
