"""How long to go on trying, and how long to wait in between."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Full-jitter exponential back-off: before try n, wait anything between 0 and min(cap, base · 2ⁿ) seconds.

    Waiting a random share of the whole span, rather than about the span, keeps many workers that met the same outage
    from coming back all at once.

    Args:
        attempts: Failures in a row that end the patience; progress starts the count anew.
        base: Longest first wait, in seconds.
        cap: Longest wait of all, in seconds.
    """

    attempts: int
    base: float = 0.1
    cap: float = 5.0

    def wait(self, failures: int) -> None:
        """Sleep before the next try, after `failures` ≥ 1 failures in a row."""
        time.sleep(random.uniform(0.0, min(self.cap, self.base * 2.0 ** (failures - 1))))
