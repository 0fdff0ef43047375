"""One trial, in the process that Ray Tune gives it: its runs are trained by Ray Train, and told of rung by rung."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import ray.tune

from jobs.checkpoints.fence import FencedError
from jobs.errors import RecoError
from jobs.job_folder import failed
from jobs.run_folder import Probe, Record, RunFolder
from jobs.spec import RunSpec, Sweep
from jobs.storage import UnreachableError
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import trials_of
from jobs.tracked_run import open_tracked, train_tracked
from jobs.tracking.errors import TrackingError
from jobs.tracking.runs import Status
from jobs.training.run import run

_log = logging.getLogger("reco.trial")
_LOOK_S = 1.0


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep need to know; it can be sent to another process.

    Attributes:
        url: Folder or S3 prefix that holds the sweep.
        sweep_id: The sweep.
        sweep: What is searched.
        tracking: Address of MLflow.
        parent: MLflow's id of the sweep's own run.
        dataset_hash: Of the index of what trials train on.
    """

    url: str
    sweep_id: str
    sweep: Sweep
    tracking: str
    parent: str
    dataset_hash: str


def carry_out(config: dict[str, Any], context: TrialContext) -> None:
    """Train the runs of a trial, each from its last checkpoint, and report to Ray Tune.

    Reports have `epoch` and `objective` where it was judged before its end; at the end `seeds`, the objective of each
    seed, or `failure`, or `outage`, which says nothing of the trial. One that was stopped ends without.

    Args:
        config: `trial` is its number, `values` what it sets.
        context: The sweep.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    seeds: list[float] = []
    try:
        for seed in range(context.sweep.spec.seeds):
            for epoch, objective in _carry_out_run(context, config["trial"], config["values"], seed):
                if epoch == context.sweep.epochs:
                    seeds.append(objective)
                elif seed == 0:  # the others only make the end more certain
                    ray.tune.report({"epoch": epoch, "objective": objective})
            if len(seeds) == seed:
                return
    except (TrackingError, UnreachableError) as error:
        ray.tune.report({"outage": error.message, "hint": error.hint or ""})
        return
    except RecoError as error:
        _log.error("trial %d: %s", config["trial"], error)
        ray.tune.report({"failure": error.message})
        return
    ray.tune.report({"seeds": seeds})


def _carry_out_run(
    context: TrialContext, number: int, values: dict[str, Any], seed: int
) -> Iterator[tuple[int, float]]:
    """Train one run, in its MLflow run below the sweep's; gives each epoch it was judged at with its objective.

    Raises:
        RecoError: The run failed; its outcome says so.
    """
    folder = SweepFolder(context.url, context.sweep_id)
    spec, run_folder = context.sweep.trial(values, seed=seed), folder.run(number, seed)
    run_folder.claim(spec)
    run_folder.begin_attempt()
    tags = {"mlflow.parentRunId": context.parent, "reco.sweep": folder.sweep_id, "reco.trial": number}
    tracked = open_tracked(
        spec, run_folder, context.tracking, name=run_folder.run_id, dataset_hash=context.dataset_hash, tags=tags
    )
    if folder.stop_requested():  # between two looks of whoever asks the runs
        run_folder.request_stop()
    status: Status | None = "FAILED"
    try:
        result = run_folder.result()
        if result is None:
            work = functools.partial(run, as_trial=True)
            with ThreadPoolExecutor(1, thread_name_prefix="run") as pool:
                training = pool.submit(train_tracked, spec, run_folder, tracked, work=work)
                yield from _judged(spec, run_folder, context, over=lambda: bool(wait([training], _LOOK_S).done))
                result = training.result()
        else:  # whoever trained it was killed before all of this was told
            yield from _judged(spec, run_folder, context, over=lambda: True)
        if result is not None:
            status = "FINISHED"
            run_folder.write_outcome({"status": "succeeded", "exit_code": 0, "results": result})
            yield spec.train.epochs, _number(result[context.sweep.metric], run_folder)
        else:
            stopped_early = trials_of(folder.ledger().events())[number].stopping
            status = "FINISHED" if stopped_early else "KILLED"
            run_folder.write_outcome({"status": "stopped", "exit_code": 0})
    except FencedError:
        status = None  # folder and MLflow run are the newer attempt's
        raise
    except RecoError as error:
        run_folder.write_outcome(failed(error))
        raise
    finally:
        if status is not None:
            tracked.finish(status)


def _judged(
    spec: RunSpec, run_folder: RunFolder, context: TrialContext, *, over: Callable[[], bool]
) -> Iterator[tuple[int, float]]:
    """Each epoch before the last that a run was judged at, in order, until it is over; what was before included.

    What was measured after the checkpoint that an attempt went on from is measured again, and is not looked at.
    """
    metric, total, given, resumed_from, ended = context.sweep.metric, 0, 0, 0, False
    kept: dict[int, float] = {}

    def measured(records: Iterable[Record | Probe]) -> dict[int, float]:
        return {each["step"]: each["metrics"][metric] for each in records if metric in each["metrics"]}

    while not ended:
        ended = over()
        progress = run_folder.progress() or {}
        if ended and run_folder.result() is not None:
            kept = measured(run_folder.records())
            total = max(kept)  # a trial is judged after its last step
        else:
            total = progress.get("total_steps", total)
            if progress.get("resumed_from", 0) != resumed_from:
                resumed_from = progress["resumed_from"]
                kept = measured(run_folder.records(up_to=resumed_from))
        points = kept | measured(progress.get("probes", []))
        for step in sorted(points):
            epoch = step * spec.train.epochs // total
            if given < epoch < spec.train.epochs:
                given = epoch
                yield epoch, _number(points[step], run_folder)


def _number(objective: float, run_folder: RunFolder) -> float:
    """The objective, where it is one.

    Raises:
        RecoError: It is no number, which no trial could be compared with.
    """
    if math.isfinite(objective):
        return objective
    run_folder.request_stop()  # where it is still trained
    raise RecoError(f"the objective of run {run_folder.run_id} is {objective}.", hint="Its encoder has collapsed.")
