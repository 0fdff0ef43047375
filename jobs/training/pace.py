"""When the next checkpoint is due, so that saving stays a small part of the time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.spec.models import CheckpointSpec

_log = logging.getLogger(__name__)

_SHARE = 0.01


class Pace:
    """Checkpoints by steps or by the clock.

    An interval in steps is kept to the letter. One in seconds is stretched where a checkpoint takes more than one per
    cent of it: a slow storage must not eat a run that asked for five minutes without knowing it.

    Args:
        every: The interval.
        step: Completed when the run begins or continues.
        clock: Seconds that only ever grow.
    """

    def __init__(self, every: CheckpointSpec, *, step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._cost = 0.0
        self._said = False
        self.last_saved = step
        self._saved_at = clock()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        if self._every.steps is not None:
            return step - self.last_saved >= self._every.steps
        return self._clock() - self._saved_at >= max(self._every.seconds or math.inf, self._cost / _SHARE)

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Around the saving of a checkpoint; one that fails does not count."""
        start = self._clock()
        yield
        self.last_saved, self._saved_at = step, self._clock()
        self._cost = self._saved_at - start
        seconds = self._every.seconds
        if seconds is not None and self._cost > _SHARE * seconds and not self._said:
            self._said = True
            _log.warning(
                "a checkpoint took %.1f s, so the next comes after %.0f s rather than %d s: saving is kept to 1 %%",
                self._cost,
                self._cost / _SHARE,
                seconds,
            )
