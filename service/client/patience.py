"""How often a request is repeated, and after which wait."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Patience:
    """Bounded repetition with full jitter (Brooker, Exponential Backoff and Jitter, 2015).

    Attributes:
        repeats: At most so many after the first time.
        first_s: Longest wait before the first repetition; it doubles from one to the next.
        longest_s: Longest wait of all, also of those that the server asks for: who is told to wait longer gives up.
        chance: A number from 0 to 1.
    """

    repeats: int = 5
    first_s: float = 0.5
    longest_s: float = 20.0
    chance: Callable[[], float] = random.random

    def wait(self, number: int, asked_s: float | None = None) -> float | None:
        """Seconds to wait before a repetition; None where there is to be none.

        Args:
            number: Of the repetition, from 1.
            asked_s: What the server asked for at least.
        """
        if number > self.repeats or (asked_s or 0.0) > self.longest_s:
            return None
        jitter = self.chance() * min(self.longest_s, self.first_s * 2.0 ** (number - 1))
        # What was asked for is a least, for all that were turned away at once: beyond it they come one by one.
        return (asked_s or 0.0) + jitter


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a header `Retry-After` asks to wait; it holds a number or a date. None where it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
