"""Who goes on: Ray Tune's scheduler, asked about trials by number."""

from __future__ import annotations

from dataclasses import dataclass

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from jobs.spec import Sweep


@dataclass(frozen=True)
class _Named:
    """All that schedulers look at of a trial."""

    trial_id: str


class Judge:
    """The scheduler that a sweep asks for. What it answers is a function of all that it was told before.

    Args:
        sweep: With its scheduler; times are epochs.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._epochs = sweep.epochs
        self._scheduler = _open(sweep)
        self._known: set[int] = set()

    def goes_on(self, number: int, epoch: int, objective: float) -> bool:
        """Whether the trial of a number goes on, now that it was judged after an epoch; not asked twice for one."""
        trial = _Named(str(number))
        if number not in self._known:
            self._known.add(number)
            self._scheduler.on_trial_add(None, trial)
        decision = self._scheduler.on_trial_result(None, trial, {"epoch": epoch, "objective": objective})
        return epoch >= self._epochs or decision != TrialScheduler.STOP


def _open(sweep: Sweep) -> TrialScheduler:
    spec = sweep.spec.scheduler
    asked = {"time_attr": "epoch", "metric": "objective", "mode": sweep.spec.objective.mode}
    if spec.name == "asha":
        return AsyncHyperBandScheduler(
            **asked, max_t=sweep.epochs, grace_period=sweep.grace, reduction_factor=spec.reduction
        )
    if spec.name == "median":
        # Without end: it would pause a trial for others that wait, by asking a controller that is not there.
        return MedianStoppingRule(**asked, grace_period=sweep.grace, min_time_slice=float("inf"), hard_stop=True)
    return FIFOScheduler()
