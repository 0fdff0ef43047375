"""Runs and registered encoders as MLflow holds them, read to be compared: any number in one search, not one by one."""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

from jobs.errors import UserError
from jobs.tracking.client import client, explained, shown
from jobs.tracking.errors import TrackingError
from jobs.tracking.figures import LOSS_NAMES
from jobs.tracking.models import find_model
from jobs.tracking.runs import NON_FINITE_TAG, RUN_ID_TAG, TrackedRun
from jobs.tracking.search import FoundRun, as_found, search

Mode = Literal["max", "min"]

EXPERIMENT = "reco"
SPEC_TAG = "reco.spec_hash"
"""A run has it, a sweep's own MLflow run has not."""
SWEEP_TAG = "reco.sweep"

ASKED_SINGLY = 8
"""Most runs that are searched for one by one; MLflow's filters know no `or`, so more by what they begin with."""
MOST_WITH_BEST = 12
"""Most runs whose histories are read to find the best of a metric: a request for each run and metric."""
READERS = 8


class UnknownRunError(TrackingError, UserError):
    """No run goes by the id given, or none is selected."""


@dataclass(frozen=True)
class ComparedRun:
    """A run as MLflow holds it.

    Attributes:
        label: What it is called in the comparison: its run id, or the reference of its encoder.
        tracked: The run; asks MLflow for its histories.
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        params: What it is, by dotted names.
        tags: What else is known of it.
        last: The newest value of each metric.
        best: The best value of the metrics whose histories were read.
    """

    label: str
    tracked: TrackedRun
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    last: dict[str, float]
    best: dict[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        """Its seed, as MLflow has it; empty where it has none."""
        return self.params.get("train.seed", "")


@dataclass(frozen=True)
class Found:
    """Runs that can be compared (as they were named, then others by id), and what to say of how they were found."""

    runs: list[ComparedRun]
    notes: list[str]


def direction(metric: str) -> Mode | None:
    """Whether more of a metric is better, or less; None where neither is, as for most measures of health."""
    section, _, last = metric.rpartition("/")
    if last.startswith(("knn", "linear", "rank_me")) and section != "health":
        return "max"
    if metric == "time/pictures_per_s":
        return "max"
    return "min" if metric in LOSS_NAMES or metric in ("time/step_s", "time/data_wait", "time/saving") else None


def find_runs(uri: str, run_ids: Sequence[str] = (), *, pattern: str | None = None, sweep: str | None = None) -> Found:
    """Find runs by their ids, and those that a pattern or a sweep selects.

    Where MLflow has several runs of one id, the newest is taken and a note says so. A run that was named must have
    metrics; one that was only selected is left out without them.

    Args:
        uri: Address of the tracking server.
        run_ids: Run ids of this project.
        pattern: With `*` and `?`, for run ids.
        sweep: Id of a sweep; with a pattern too, those of its runs that the pattern fits.

    Raises:
        UnknownRunError: A run that was named is not there; the message names the nearest.
        UserError: A run that was named has no metrics yet, or fewer than two are left.
        TrackingError: The server did not answer or refused.
    """
    named = list(dict.fromkeys(run_ids))
    with explained("read the runs", uri):
        experiment = client(uri).get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise UnknownRunError(
                f"no run is tracked at {shown(uri)} yet.",
                hint="`reco pretrain SPEC` makes one; or see whose address it is.",
            )
        by_id = _named(uri, experiment.experiment_id, named)
        chosen = {run_id: by_id[run_id] for run_id in named}
        if pattern is not None or sweep is not None:
            known = [f"tags.`{SWEEP_TAG}` = '{_plain(sweep)}'"] if sweep is not None else []
            known += _beginning(re.split(r"[*?\[]", pattern)[0]) if pattern is not None else []
            selected = _by_id(uri, search(uri, experiment.experiment_id, " and ".join(known)))
            if pattern is not None:
                selected = {run_id: runs for run_id, runs in selected.items() if fnmatch.fnmatchcase(run_id, pattern)}
            chosen |= {run_id: selected[run_id] for run_id in sorted(selected) if SPEC_TAG in selected[run_id][0].tags}
    notes = [
        f"MLflow has {len(runs)} runs called {run_id}: the newest is compared ({runs[0].tracked.mlflow_run_id})"
        for run_id, runs in chosen.items()
        if len(runs) > 1
    ]
    found = [runs[0] for runs in chosen.values()]
    return Found(*_with_metrics(found, notes, named=set(named)))


def find_models(uri: str, references: Sequence[str]) -> Found:
    """Find the runs of registered encoders; the results an encoder was registered with count as its last metrics.

    Args:
        uri: Address of the tracking server.
        references: As `jobs.tracking.models.find_model` takes them.

    Raises:
        UnknownModelError: One of them is not there.
        UserError: Fewer than two are left.
        TrackingError: The server did not answer or refused.
    """
    versions = {}
    for reference in references:
        version = find_model(reference, uri)
        versions[version.reference] = version
    runs = []
    with explained("read the runs of the models", uri):
        for label, version in versions.items():
            run = _read(uri, as_found(client(uri).get_run(version.mlflow_run_id)))
            runs.append(replace(run, label=label, last=run.last | version.metrics))
    same = len(references) - len(versions)
    notes = [f"{same} of the references name a version that another names too"] if same else []
    return Found(*_with_metrics(runs, notes, named=set(versions), kind="encoder"))


def with_best(uri: str, runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return the runs with the best values of their `valid/` metrics, where they are few enough to read histories.

    Raises:
        TrackingError: The server did not answer or refused.
    """
    if len(runs) > MOST_WITH_BEST:
        return list(runs)

    def best_of(run: ComparedRun) -> ComparedRun:
        best: dict[str, float] = {}
        for metric in sorted(run.last):
            mode = direction(metric)
            if metric.startswith("valid/") and mode is not None:
                points = client(uri).get_metric_history(run.tracked.mlflow_run_id, metric)
                values = [float(point.value) for point in points]
                if values:
                    best[metric] = max(values) if mode == "max" else min(values)
        return replace(run, best=best)

    with explained("read metrics", uri), ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(best_of, runs))


def histories(runs: Sequence[ComparedRun], metrics: Sequence[str]) -> list[list[dict[str, float]]]:
    """Return what `TrackedRun.history` gives of each run.

    Raises:
        TrackingError: The server did not answer or refused.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda run: run.tracked.history([each for each in metrics if each in run.last]), runs))


def _named(uri: str, experiment_id: str, run_ids: Sequence[str]) -> dict[str, list[ComparedRun]]:
    found: dict[str, list[ComparedRun]] = {}
    if len(run_ids) <= ASKED_SINGLY:
        for run_id in run_ids:
            if run_id == _plain(run_id):
                found |= _by_id(uri, search(uri, experiment_id, f"tags.`{RUN_ID_TAG}` = '{run_id}'"))
    else:
        found = _by_id(uri, search(uri, experiment_id, "".join(_beginning(os.path.commonprefix(run_ids)))))  # noqa: RUF071
    for run_id in run_ids:
        if run_id not in found:
            found = _by_id(uri, search(uri, experiment_id, ""))  # one of them may be what was meant
            raise UnknownRunError(f"there is no run {run_id!r} in MLflow at {shown(uri)}.", hint=_known(run_id, found))
    return found


def _by_id(uri: str, runs: Iterator[FoundRun]) -> dict[str, list[ComparedRun]]:
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        read = _read(uri, run)
        if read.label:
            found.setdefault(read.label, []).append(read)
    return found


def _read(uri: str, run: FoundRun) -> ComparedRun:
    run_id = run.tags.get(RUN_ID_TAG, "")
    return ComparedRun(
        label=run_id,
        tracked=TrackedRun(uri, run_id, run.mlflow_run_id, run.experiment_id),
        status=run.status,
        params=run.params,
        tags=run.tags,
        last=run.metrics,
    )


def _with_metrics(
    runs: Sequence[ComparedRun], notes: list[str], *, named: Collection[str], kind: str = "run"
) -> tuple[list[ComparedRun], list[str]]:
    """The runs that have metrics, with more notes: who was left out, who has not ended, what was no number."""
    empty = [run for run in runs if not run.last]
    for run in empty:
        if run.label in named:
            raise UserError(
                f"{kind} {run.label} has no metrics yet ({run.status.lower()}).",
                hint="Leave it out, or wait for its first logged step.",
            )
    notes = [*notes, *([f"left out for want of metrics: {_listed(empty)}"] if empty else [])]
    kept = [run for run in runs if run.last]
    if len(kept) < 2:
        raise UserError(
            f"there is only one {kind} to compare: {kept[0].label}." if kept else f"no {kind} is selected.",
            hint=f"Name at least two {kind}s.",
        )
    going_on = [run for run in kept if run.status != "FINISHED"]
    if going_on:
        notes.append(f"not finished, so their last values are not final: {_listed(going_on)}")
    for run in kept:
        broken = json.loads(run.tags.get(NON_FINITE_TAG, "{}"))
        if broken:
            words = (f"{name} from step {of['first_step']} ({of['values']} values)" for name, of in broken.items())
            notes.append(f"{run.label}: no numbers, and so not in MLflow, were {', '.join(words)}")
    return kept, notes


def _listed(runs: Sequence[ComparedRun]) -> str:
    words = [f"{run.label} ({run.status.lower()})" for run in runs]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _beginning(text: str) -> list[str]:
    """A filter for run ids that begin so, where that narrows them down; it may let others through."""
    return [f"tags.`{RUN_ID_TAG}` LIKE '{_plain(text)}%'"] if text and text == _plain(text) else []


def _plain(text: str) -> str:
    """An id without what ends a text in MLflow's filters; no run is called so."""
    return text.replace("'", "").replace("\\", "")


def _known(run_id: str, known: Collection[str]) -> str:
    if not known:
        return "None is tracked yet: `reco pretrain SPEC` makes one."
    near = difflib.get_close_matches(run_id, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"The newest are: {', '.join(list(known)[:10])}."
