"""What a sweep will cost, before it is started: the base is measured for a moment, the scheduler is played through."""

from __future__ import annotations

import time
from random import Random
from typing import TypedDict

import psutil
import ray

from jobs.cluster import hosts_at_hand
from jobs.spec import Sweep
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.judge import Judge
from jobs.sweeps.rehearsal import Rehearsal, rehearse_base

_SECONDS = 10.0
_PLAYS = 200


class Preview(TypedDict):
    """The cost of a sweep; times in seconds, `low` and `high` the tenth and the ninetieth of a hundred."""

    trials: int
    rungs: list[int]
    epochs: int
    configurations_early: float
    total_epochs: float
    low_epochs: float
    high_epochs: float
    wall_s: float
    low_wall_s: float
    high_wall_s: float
    gpu_hours: float
    storage_bytes: float
    concurrency: int
    step_s: float
    probe_s: float
    around_s: float
    start_s: float
    host_bytes: float
    gpu_bytes: float
    warnings: list[str]


def preview(sweep: Sweep, folder: SweepFolder) -> Preview:
    """Measure the base on the cluster, and work out the rest.

    Raises:
        RecoError: The base does not run, or its objective does not come; it says why.
    """
    began_s = time.time() - psutil.Process().create_time()  # a cluster of its own was started, if there is one
    rehearsal = rehearse_base(sweep, folder, seconds=_SECONDS)
    process_s = _process_seconds()
    start_s = began_s + rehearsal.itself_s
    spec = sweep.trial({})
    scale = spec.scale
    concurrency = concurrent_trials(sweep)
    plays = sorted(_play(sweep, seed) for seed in range(_PLAYS))
    epochs = [played for played, _ in plays]
    mean, low, high = sum(epochs) / _PLAYS, epochs[_PLAYS // 10], epochs[-_PLAYS // 10]
    at_once = min(concurrency, sweep.trials)
    runs = sweep.trials + (sweep.spec.seeds - 1) * (sweep.trials - sum(early for _, early in plays) / _PLAYS)

    def wall(total_epochs: float) -> float:
        training = total_epochs * rehearsal.steps_per_epoch * rehearsal.step_s
        judging = total_epochs / sweep.judged_every * rehearsal.probe_s
        trials = training + judging + runs * (rehearsal.around_s + process_s)
        return start_s + trials / at_once

    return {
        "trials": sweep.trials,
        "rungs": list(sweep.rungs),
        "epochs": sweep.epochs,
        "configurations_early": sum(early for _, early in plays) / _PLAYS,
        "total_epochs": mean,
        "low_epochs": low,
        "high_epochs": high,
        "wall_s": wall(mean),
        "low_wall_s": wall(low),
        "high_wall_s": wall(high),
        "gpu_hours": (wall(mean) - start_s) * at_once * scale.workers * scale.gpus_per_worker / 3600,
        "storage_bytes": runs * spec.checkpoint.keep * rehearsal.state_bytes,
        "concurrency": concurrency,
        "step_s": rehearsal.step_s,
        "probe_s": rehearsal.probe_s,
        "around_s": rehearsal.around_s + process_s,
        "start_s": start_s,
        "host_bytes": rehearsal.host_bytes,
        "gpu_bytes": rehearsal.gpu_bytes,
        "warnings": _warnings(sweep, rehearsal, wall(mean)),
    }


def concurrent_trials(sweep: Sweep) -> int:
    """Trials at a time: as many as the cluster holds, or fewer where fewer are asked for."""
    scale = sweep.spec.scale or sweep.base.scale
    room = max(1, hosts_at_hand(scale).room // scale.workers)
    return min(room, sweep.spec.concurrency or room)


def _play(sweep: Sweep, seed: int) -> tuple[float, int]:
    """Epochs of all trials together, and how many were stopped early, where each is worth a random number."""
    random, judge = Random(seed), Judge(sweep)
    total = early = 0
    for number in range(sweep.trials):
        worth, reached = random.random(), sweep.epochs
        for epoch in (*range(sweep.judged_every, sweep.epochs, sweep.judged_every), sweep.epochs):
            if epoch < sweep.epochs and not judge.goes_on(number, epoch, worth):
                reached, early = epoch, early + 1
                break
        total += reached + (sweep.spec.seeds - 1) * sweep.epochs * (reached == sweep.epochs)
    return float(total), early


def _warnings(sweep: Sweep, rehearsal: Rehearsal, wall_s: float) -> list[str]:
    found = []
    scale = sweep.trial({}).scale
    for node in ray.nodes():
        memory, cores = node["Resources"].get("memory", 0.0), node["Resources"].get("CPU", 0.0)
        workers = int(cores // scale.cpus_per_worker)
        if node["Alive"] and workers and workers * rehearsal.host_bytes > memory > 0:
            found.append(
                f"{workers} workers may take {workers * rehearsal.host_bytes / 1e9:.1f} GB on "
                f"{node['NodeManagerAddress']}, which has {memory / 1e9:.1f}"
            )
    limit = sweep.spec.budget.seconds
    if limit is not None and wall_s > limit:
        found.append(f"the budget ends it first: {wall_s / 60:.0f} of {limit / 60:.0f} minutes")
    return found


def _process_seconds() -> float:
    """How long a trial's own process takes to start."""
    start = time.monotonic()
    ray.get(_import.remote())
    return time.monotonic() - start


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _import() -> None:
    import jobs.sweeps.trial  # noqa: F401 - what a trial's process begins with
