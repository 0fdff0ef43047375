"""The base of a sweep, rehearsed on the cluster: does its objective come, and what does a trial cost?"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

from jobs.attempt import Attempt
from jobs.errors import RecoError, UserError
from jobs.spec import Sweep, closest
from jobs.sweeps.folder import SweepFolder
from jobs.training.rehearsal import rehearse


@dataclass(frozen=True)
class Rehearsal:
    """What was measured of the base; times in seconds.

    Attributes:
        step_s: A step, its part of logging included.
        probe_s: A judgement.
        around_s: What a run takes beside its steps and judgements: workers are placed, data is opened, all ends.
        steps_per_epoch: Steps of an epoch.
        host_bytes: Most memory of a worker and its loader.
        gpu_bytes: Most memory on its GPU.
        state_bytes: A checkpoint.
        objective: The first one, which says no more than that it comes.
    """

    step_s: float
    probe_s: float
    around_s: float
    steps_per_epoch: int
    host_bytes: float
    gpu_bytes: float
    state_bytes: float
    objective: float


def rehearse_base(sweep: Sweep, folder: SweepFolder, *, seconds: float = 0.0) -> Rehearsal:
    """Take a few steps of the base on the cluster and judge it once.

    Args:
        sweep: With its base.
        folder: Where the rehearsal keeps what it measured.
        seconds: How long to take steps; 0 takes as few as it can.

    Raises:
        UserError: The objective did not come, or is no number.
        RecoError: The base does not run; it says why.
    """
    spec = sweep.trial({})
    run = folder.rehearsal()
    run.begin_attempt()
    began = time.monotonic()
    work = functools.partial(rehearse, seconds=seconds)
    with Attempt(spec, run, None, workers=spec.scale.workers, work=work) as attempt:
        pass
    took = time.monotonic() - began
    if (failure := run.failure()) is not None:
        raise failure
    if attempt.error is not None:
        raise RecoError(
            f"the base of the sweep does not run: {attempt.cause}", hint="The log above has the workers' tracebacks."
        ) from attempt.error
    found = run.result()
    assert found is not None
    metric = sweep.metric
    if metric not in found or not math.isfinite(found[metric]):
        names = [name for name in found if "/" in name]
        near = closest(metric, names)
        what = f"is {found[metric]}" if metric in found else "does not come"
        raise UserError(
            f"the objective {metric} {what}: a trial of two steps measured {', '.join(names) or 'nothing'}.",
            hint=f"Set objective.metric to {near or (names or ['valid/knn'])[0]}.",
        )
    inside = found["inside_s"]
    return Rehearsal(
        step_s=found["step_s"] + found["log_s"] / spec.train.log_every,
        probe_s=found["probe_s"],
        around_s=took - inside,
        steps_per_epoch=int(found["steps_per_epoch"]),
        host_bytes=found["host_bytes"],
        gpu_bytes=found["gpu_bytes"],
        state_bytes=found["state_bytes"],
        objective=found[metric],
    )
