"""One trial, in the process that Ray Tune gives it: its runs are trained by Ray Train, and told of rung by rung."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import ray.tune

from jobs.errors import RecoError
from jobs.run_folder import RunFolder, failed
from jobs.spec import RunSpec, Sweep
from jobs.spec.models import OUTSIDE_THE_HASH
from jobs.supervisor import train
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import trials_of
from jobs.tracking.runs import Status, TrackedRun, open_run
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
        tags: Of every run, such as the hash of the data.
    """

    url: str
    sweep_id: str
    sweep: Sweep
    tracking: str
    parent: str
    tags: Mapping[str, str]


def carry_out(config: dict[str, Any], context: TrialContext) -> None:
    """Train the runs of a trial, each from its last checkpoint, and report to Ray Tune.

    Reports have `epoch` and `objective` at a rung; at the end `seeds`, the objective of each seed, or `failure`. A
    trial that was stopped ends without.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    folder = SweepFolder(context.url, context.sweep_id)
    number: int = config["trial"]
    values = trials_of(folder.ledger().events())[number].values
    last, metric = context.sweep.epochs, context.sweep.metric
    seeds: list[float] = []
    try:
        for seed in range(context.sweep.spec.seeds):
            spec = context.sweep.trial(values, seed=seed)
            for epoch, objective in _carry_out_run(spec, folder, context, number=number, seed=seed, metric=metric):
                if epoch == last:
                    seeds.append(objective)
                elif seed == 0:  # the others only make the end more certain
                    ray.tune.report({"epoch": epoch, "objective": objective})
            if len(seeds) == seed:
                return
    except RecoError as error:
        _log.error("trial %d: %s", number, error)
        ray.tune.report({"failure": error.message})
        return
    ray.tune.report({"epoch": last, "seeds": seeds})


def _carry_out_run(
    spec: RunSpec, folder: SweepFolder, context: TrialContext, *, number: int, seed: int, metric: str
) -> Iterator[tuple[int, float]]:
    """Train one run, in its MLflow run below the sweep's; gives each epoch it was judged at with its objective.

    Raises:
        RecoError: The run failed; its outcome says so.
    """
    run_folder = folder.run(number, seed)
    run_folder.claim(spec)
    run_folder.begin_attempt()
    tracked = open_run(
        context.tracking,
        experiment="reco",
        run_id=run_folder.run_id,
        name=run_folder.run_id,
        params=spec.model_dump(mode="json", exclude=OUTSIDE_THE_HASH),
        tags={
            **context.tags,
            "mlflow.parentRunId": context.parent,
            "reco.spec_hash": spec.hash,
            "reco.sweep": folder.sweep_id,
            "reco.trial": number,
        },
    )
    if folder.stop_requested():  # between two looks of whoever asks the runs
        run_folder.request_stop()
    status: Status = "FAILED"
    try:
        result = run_folder.result()
        if result is None:
            with ThreadPoolExecutor(1, thread_name_prefix="run") as pool:
                training = pool.submit(_train, spec, run_folder, tracked)
                yield from _judged(spec, run_folder, metric, over=lambda: bool(wait([training], _LOOK_S).done))
                result = training.result()
        if result is not None:
            status = "FINISHED"
            run_folder.write_outcome({"status": "succeeded", "exit_code": 0, "results": result})
            yield spec.train.epochs, result[metric]
        else:
            stopped_early = trials_of(folder.ledger().events())[number].stopping
            status = "FINISHED" if stopped_early else "KILLED"
            run_folder.write_outcome({"status": "stopped", "exit_code": 0})
    except RecoError as error:
        run_folder.write_outcome(failed(error))
        raise
    finally:
        tracked.finish(status)


def _train(spec: RunSpec, run_folder: RunFolder, tracked: TrackedRun) -> dict[str, float] | None:
    return train(spec, run_folder, tracked, work=functools.partial(run, as_trial=True))


def _judged(
    spec: RunSpec,
    run_folder: RunFolder,
    metric: str,
    *,
    over: Any,  # noqa: ANN401
) -> Iterator[tuple[int, float]]:
    """Each epoch before the last that a run is judged at, while it is trained; what an attempt before saw included."""
    kept = {each["step"]: each["metrics"][metric] for each in run_folder.records() if metric in each["metrics"]}
    given: set[int] = set()
    ended = False
    while not ended:
        ended = over()
        progress = run_folder.progress()
        if progress is None or "total_steps" not in progress:
            continue
        # What was measured after the checkpoint that training went on from is measured again.
        points = {step: value for step, value in kept.items() if step <= progress["resumed_from"]}
        points |= {each["step"]: each["metrics"][metric] for each in progress.get("probes", [])}
        per_epoch = progress["total_steps"] // spec.train.epochs
        for step in sorted(points.keys() - given):
            given.add(step)
            if step < progress["total_steps"]:
                yield step // per_epoch, points[step]
