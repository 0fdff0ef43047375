"""How often somebody may ask: a leaky bucket for each caller, in memory, with a clock that is given."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """Lets a minute's worth of requests through at once, and from then on as many as a minute brings back.

    The generic cell rate algorithm (ITU-T I.371): of each caller only one moment is kept, when its bucket will be empty
    again. Not `limits`: its clock cannot be given, its memory has no bound, and it starts a thread every 10 ms.

    Args:
        per_minute: Requests; 0 for any number.
        clock: Seconds, from any beginning.
        most: Callers that are remembered; those that asked the longest ago are forgotten first.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic, most: int = 10_000) -> None:
        self._apart = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._most = clock, most
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def take(self, caller: str) -> float:
        """Count a request: 0 where it may pass, else the seconds until one may."""
        wait = self.wait(caller)
        if wait == 0.0 and self._apart:
            self._empty_at[caller] = max(self._empty_at.get(caller, 0.0), self._clock()) + self._apart
            self._empty_at.move_to_end(caller)
            if len(self._empty_at) > self._most:
                self._empty_at.popitem(last=False)
        return wait

    def wait(self, caller: str) -> float:
        """The same without counting it."""
        return max(0.0, self._empty_at.get(caller, 0.0) + self._apart - self._clock() - 60.0) if self._apart else 0.0
