"""The base of a sweep, rehearsed on the cluster: does its objective come, and what does a trial cost?"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

from jobs.errors import UserError
from jobs.spec import Sweep, closest
from jobs.spec.space import with_values
from jobs.supervisor import train
from jobs.sweeps.folder import SweepFolder
from jobs.training.rehearsal import rehearse


@dataclass(frozen=True)
class Rehearsal:
    """What was measured of the base; times in seconds.

    Attributes:
        step_s: A step, its part of logging included.
        probe_s: A judgement.
        around_s: What a run takes beside its steps and judgements: workers are placed, data is opened, all ends.
        itself_s: The rehearsal, had it taken as few steps as it could.
        steps_per_epoch: Steps of an epoch.
        host_bytes: Most memory of a worker and its loader.
        gpu_bytes: Most memory on its GPU.
        state_bytes: A checkpoint.
        objective: The first one, which says no more than that it comes.
    """

    step_s: float
    probe_s: float
    around_s: float
    itself_s: float
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
    spec = with_values(sweep.trial({}), {"scale.max_restarts": 0, "scale.min_workers": None})
    run = folder.rehearsal()
    run.begin_attempt()
    began = time.monotonic()
    found = train(spec, run, None, work=functools.partial(rehearse, seconds=seconds))
    took = time.monotonic() - began
    assert found is not None  # nobody else knows of it who could stop it
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
        itself_s=took - min(seconds, inside),
        steps_per_epoch=int(found["steps_per_epoch"]),
        host_bytes=found["host_bytes"],
        gpu_bytes=found["gpu_bytes"],
        state_bytes=found["state_bytes"],
        objective=found[metric],
    )
