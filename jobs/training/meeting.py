"""Between two logging steps, every few seconds: do all ranks stop here?"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from jobs.training.ranks import Ranks

_EVERY_S = 5.0


class Meetings:
    """When ranks ask each other whether one of them was asked to stop.

    A machine that is taken away gives half a minute, whatever lies between two logging steps. Asking costs a GPU the
    work it was given ahead, so it is done every few seconds, in steps that all ranks count alike: the first time after
    the first step, then as many later as take that long by the mean of what each of them measured.

    Args:
        ranks: Those that meet.
        step: Completed when the run begins or continues.
        clock: Seconds that only ever grow.
    """

    def __init__(self, ranks: Ranks, *, step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranks, self._clock = ranks, clock
        self._last, self._next, self._since = step, step + 1, clock()

    def due(self, step: int) -> bool:
        """Whether ranks meet after this step."""
        return step >= self._next

    def agree(self, step: int, *, stop: bool) -> bool:
        """Meet; whether any rank was asked to stop.

        Args:
            step: Completed.
            stop: Whether this rank was asked.
        """
        seconds = (self._clock() - self._since) / (step - self._last)
        mine = torch.tensor([float(stop), seconds / self._ranks.world_size], device=self._ranks.device)
        stops, seconds = self._ranks.total(mine).tolist()
        self._last, self._since = step, self._clock()
        self._next = step + max(1, int(_EVERY_S / max(seconds, 1e-6)))
        return bool(stops > 0)
