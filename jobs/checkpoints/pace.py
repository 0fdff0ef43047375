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

    An interval in steps is kept to the letter. One in seconds is stretched where a checkpoint holds training up for
    more than one per cent of it, and until the one before is stored: a slow storage must not eat a run that asked for
    five minutes without knowing it.

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
        self._last_step = step
        self._began = self._saved_at = clock()
        self._total = 0.0

    def due(self, step: int, *, busy: bool = False, owing: bool = False) -> bool:
        """Whether a checkpoint is due after `step` steps.

        Args:
            step: Completed.
            busy: The one before is still being stored.
            owing: The one before did not come to exist.
        """
        if owing and not busy:
            return True
        if self._every.steps is not None:
            return step - self._last_step >= self._every.steps
        return not busy and self._clock() - self._saved_at >= max(self._every.seconds or math.inf, self._cost / _SHARE)

    @property
    def share(self) -> float:
        """The part of the time so far that saving held training up."""
        return self._total / max(self._clock() - self._began, 1e-9)

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Around what training has to wait for; where it fails, it does not count."""
        start = self._clock()
        yield
        self._last_step, self._saved_at = step, self._clock()
        self._cost = self._saved_at - start
        self._total += self._cost
        seconds = self._every.seconds
        if seconds is not None and self._cost > _SHARE * seconds and not self._said:
            self._said = True
            _log.warning(
                "a checkpoint held training up for %.1f s, so the next comes after %.0f s rather than %d s: "
                "saving is kept to 1 %%",
                self._cost,
                self._cost / _SHARE,
                seconds,
            )
