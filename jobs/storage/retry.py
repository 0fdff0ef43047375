"""How long to go on trying, how long to wait in between, and how often this process may try again at all."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass

IN_FLIGHT = 64
"""Most ranged reads of this process that have a request open at once."""


@dataclass(frozen=True)
class Patience:
    """How long failures in a row are put up with, counted from the first of them.

    Before try n it waits anything between 0 and min(cap, base · 2ⁿ) seconds. Waiting a random share of the whole span,
    rather than about the span, keeps many workers that met the same outage from coming back all at once.

    Args:
        seconds: From the first failure to the last try; success or enough progress starts anew. 0 never tries again.
        base: Longest first wait, in seconds.
        cap: Longest wait of all, in seconds.
    """

    seconds: float
    base: float = 0.1
    cap: float = 5.0


class RetryBudget:
    """A bucket of tokens for the retries of this whole process.

    Back-off alone leaves the load on a server in trouble proportional to the number of threads. A retry that finds no
    token waits for one, in its turn; it is never refused, since giving up is for `Patience` to decide. A retry that
    succeeds frees two more, so that after an outage all threads are back within moments.

    Args:
        rate: Tokens that come in, per second.
        burst: Most tokens kept.
    """

    def __init__(self, rate: float = 5.0, burst: float = 20.0) -> None:
        self._rate = rate
        self._burst = burst
        self._renew()

    def _renew(self) -> None:
        self._tokens = self._burst
        self._counted = time.monotonic()
        self._first_in_line = threading.Lock()
        self._changed = threading.Condition()

    def take(self, at_most: float) -> None:
        """Wait for a token, but no longer than `at_most` seconds: then the retry is made without one."""
        deadline = time.monotonic() + at_most
        # Only the first in line watches the bucket: hundreds of threads that wake for every token would cost more
        # than the requests that are saved.
        if not self._first_in_line.acquire(timeout=max(0.0, at_most)):
            return
        try:
            with self._changed:
                while (missing := 1.0 - self._refilled()) > 0 and (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(min(left, missing / self._rate))
                self._tokens = max(0.0, self._tokens - 1.0)
        finally:
            self._first_in_line.release()

    def give_back(self) -> None:
        """A retry succeeded: the server is there for others as well."""
        with self._changed:
            self._tokens = min(self._burst, self._refilled() + 2.0)
            self._changed.notify()

    def _refilled(self) -> float:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._counted) * self._rate)
        self._counted = now
        return self._tokens


BUDGET = RetryBudget()
"""This process's."""

in_flight = threading.BoundedSemaphore(IN_FLIGHT)
"""Held while a ranged read has a request open, and never while it waits to try again."""


class Tries:
    """What one request has been through so far. Not for several threads.

    Args:
        patience: When to give up.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failures = 0
        self._first_failure = 0.0

    def wait(self, at_most: float = float("inf")) -> bool:
        """After a failure: wait until the next try is due.

        Args:
            at_most: Seconds since the first failure beyond which there is no patience, whatever was agreed on.

        Returns:
            False, at once, where patience is at its end.
        """
        if self._failures == 0:
            self._first_failure = time.monotonic()
        self._failures += 1
        limit = self._first_failure + min(self._patience.seconds, at_most)
        if time.monotonic() >= limit:
            return False
        longest = min(self._patience.cap, self._patience.base * 2.0 ** min(self._failures - 1, 60))
        # Cut at the limit, so that the last try is made right there.
        time.sleep(min(random.uniform(0.0, longest), max(0.0, limit - time.monotonic())))
        # The first retry in a row is free: a read that meets a stray fault never queues behind those in an outage.
        if self._failures > 1:
            BUDGET.take(limit - time.monotonic())
        return True

    def succeeded(self) -> None:
        """It worked, or made enough progress to begin counting anew."""
        if self._failures:
            BUDGET.give_back()
        self._failures = 0


def _renew_after_fork() -> None:
    # Another thread of the parent may have held any of the locks at the moment of the fork.
    global in_flight
    in_flight = threading.BoundedSemaphore(IN_FLIGHT)
    BUDGET._renew()


os.register_at_fork(after_in_child=_renew_after_fork)
