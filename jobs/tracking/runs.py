"""One MLflow run per run of this project, whatever the number of attempts: found again by its tag, logged once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jobs.errors import UserError
from jobs.tracking.client import client, explained, persistently, shown
from jobs.tracking.sender import LOSS, LOSS_BY_PICTURES, PICTURES_SEEN, MetricSender
from jobs.tracking.spool import Record

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run

__all__ = ["MetricSender", "Status", "TrackedRun", "open_run"]

Status = Literal["FINISHED", "FAILED", "KILLED"]

RUN_ID_TAG = "reco.run_id"
NON_FINITE_TAG = "reco.non_finite"
PARAM_LENGTH = 6000
ENTITIES_PER_REQUEST = 100
"""Most params, and most tags, MLflow takes in one request."""


@dataclass
class TrackedRun:
    """A run in MLflow. Holds names only, so that it can be sent to another process.

    Attributes:
        uri: Address of the tracking server.
        run_id: Run id of this project.
        mlflow_run_id: Run id of MLflow.
        experiment_id: Experiment the run is in.
        high_water: Largest step whose metrics MLflow held when the run was opened or last refreshed; -1 for none.
        non_finite: First step and number of the values of each metric that were NaN or infinite.
    """

    uri: str
    run_id: str
    mlflow_run_id: str
    experiment_id: str
    high_water: int = -1
    non_finite: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of the run's page, or of the store where that has no pages."""
        if not self.uri.startswith("http"):
            return shown(self.uri)
        return f"{shown(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.mlflow_run_id}"

    def refresh_high_water(self) -> int:
        """Ask MLflow for the largest step it holds; return it.

        MLflow keeps, for each metric, the point with the largest step beside its history, and sends these with the run:
        one small request instead of a history of any length.

        Raises:
            TrackingError: The server did not answer or refused.
        """
        with explained(f"read run {self.run_id}", self.uri):
            run = client(self.uri).get_run(self.mlflow_run_id)
        steps = _newest_steps(run)
        # `pictures_seen` goes with every record; the loss of a step may be missing because it was NaN.
        self.high_water = max(steps.get(LOSS, -1), steps.get(PICTURES_SEEN, -1))
        self.non_finite = json.loads(run.data.tags.get(NON_FINITE_TAG, "{}"))
        return self.high_water

    def send(self, records: Sequence[Record]) -> None:
        """Log whole records, at most 999 metrics together, in one request; `MetricSender` calls it.

        Raises:
            TrackingError: The server did not answer or refused; the request may have arrived all the same.
        """
        from mlflow.entities import RunTag

        metrics = [point for record in records for point in _points(record)]
        non_finite = self._counted({record.step: record.non_finite for record in records})
        tags = [RunTag(NON_FINITE_TAG, json.dumps(non_finite))] if non_finite != self.non_finite else []
        with explained("log metrics", self.uri):
            client(self.uri).log_batch(self.mlflow_run_id, metrics=metrics, tags=tags)
        self.non_finite = non_finite

    def log_results(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics that come apart from the training loop's, such as final results; waits until they are stored.

        A metric of which MLflow already holds this step or a later one is left out, so a resumed run may log again.
        Values that are not finite are counted in the tag `reco.non_finite` instead of stored.

        Raises:
            ValueError: One of them is a metric of the training loop.
            TrackingError: The server did not take them in four attempts within about half a minute.
        """
        from mlflow.entities import Metric, RunTag

        loop_metrics = {LOSS, LOSS_BY_PICTURES, PICTURES_SEEN} & metrics.keys()
        if loop_metrics:
            raise ValueError(
                f"{', '.join(sorted(loop_metrics))} is logged by MetricSender alone: its steps are counted on"
            )
        now = time.time_ns() // 1_000_000

        def attempt() -> None:
            run = client(self.uri).get_run(self.mlflow_run_id)
            newest = _newest_steps(run)
            self.non_finite = json.loads(run.data.tags.get(NON_FINITE_TAG, "{}"))
            new = {name: float(value) for name, value in metrics.items() if newest.get(name, -1) < step}
            non_finite = self._counted({step: [name for name, value in new.items() if not math.isfinite(value)]})
            points = [Metric(name, value, now, step) for name, value in new.items() if math.isfinite(value)]
            tags = [RunTag(NON_FINITE_TAG, json.dumps(non_finite))] if non_finite != self.non_finite else []
            if points or tags:
                client(self.uri).log_batch(self.mlflow_run_id, metrics=points, tags=tags)
            self.non_finite = non_finite

        persistently("log results", self.uri, attempt)

    def history(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Return what MLflow holds of the named metrics, merged by step, as `figures.training_curves` takes it.

        Returns:
            One dict per step in order: `step`, `pictures` (interpolated where not logged), and its metrics.
        """
        rows: dict[int, dict[str, float]] = {}
        with explained("read metrics", self.uri):
            for name in [PICTURES_SEEN, *names]:
                for point in client(self.uri).get_metric_history(self.mlflow_run_id, name):
                    row = rows.setdefault(int(point.step), {"step": int(point.step)})
                    row["pictures" if name == PICTURES_SEEN else name] = float(point.value)
        merged = [rows[step] for step in sorted(rows)]
        known = [row for row in merged if "pictures" in row]
        if known:
            # Results are logged without a count of pictures; it rises evenly with the step.
            steps, pictures = [row["step"] for row in known], [row["pictures"] for row in known]
            for row in merged:
                row.setdefault("pictures", float(np.interp(row["step"], steps, pictures)))
        return merged

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run, replacing those of the same names."""
        with explained("set tags", self.uri):
            _log_tags(self.uri, self.mlflow_run_id, tags)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload one file into `folder` of the run's artifacts."""
        persistently(
            f"upload {path.name}",
            self.uri,
            lambda: client(self.uri).log_artifact(self.mlflow_run_id, str(path), folder),
        )

    def log_figure(self, path: Path) -> None:
        """Upload one picture to the run's `figures`."""
        self.log_artifact(path, "figures")

    def finish(self, status: Status) -> None:
        """Set how the run ended; it can be opened again."""
        persistently(
            "end the run", self.uri, lambda: client(self.uri).set_terminated(self.mlflow_run_id, status=status)
        )

    def _counted(self, bad: Mapping[int, Sequence[str]]) -> dict[str, dict[str, int]]:
        total = {name: dict(counts) for name, counts in self.non_finite.items()}
        for step, names in bad.items():
            for name in names:
                total.setdefault(name, {"first_step": step, "values": 0})["values"] += 1
        return total


def open_run(
    uri: str,
    *,
    experiment: str,
    run_id: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, object],
) -> TrackedRun:
    """Open the MLflow run of a run id, creating experiment and run where they do not exist, and set it running.

    Args:
        uri: Address of the tracking server, as `tracking_uri` gives it.
        experiment: Name of the experiment.
        run_id: Run id of this project; the MLflow run carries it as the tag `reco.run_id`.
        name: Name of the run for people, used where it is created.
        params: What defines the run; nested sections become dotted names. They can never change.
        tags: What describes the attempt; set anew each time.

    Raises:
        UserError: The run has other params already, or the experiment was deleted.
        TrackingError: The server did not answer or refused.
    """
    flat = flattened(params)
    with explained(f"open run {run_id}", uri):
        api = client(uri)
        experiment_id = _experiment(uri, experiment)
        run = _find(uri, experiment_id, run_id)
        if run is None:
            run = api.create_run(experiment_id, run_name=name, tags={RUN_ID_TAG: run_id})
        else:
            api.update_run(run.info.run_id, status="RUNNING")
        tracked = TrackedRun(uri, run_id, str(run.info.run_id), str(experiment_id))
        _log_params(uri, tracked, flat, dict(run.data.params))
        _log_tags(uri, tracked.mlflow_run_id, tags)
    tracked.refresh_high_water()
    return tracked


def flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return nested values as dotted names and texts, cut to the length MLflow stores."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            text = str(value)
            flat[prefix + name] = text if len(text) <= PARAM_LENGTH else f"{text[: PARAM_LENGTH - 1]}…"
    return flat


def _experiment(uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    api = client(uri)
    found: Experiment | None = api.get_experiment_by_name(name)
    if found is None:
        try:
            return str(api.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = api.get_experiment_by_name(name)  # Another process was faster.
    if found.lifecycle_stage != "active":
        raise UserError(
            f"the MLflow experiment {name!r} was deleted.",
            hint=f"Restore it with `mlflow experiments restore -x {found.experiment_id}`, or use another name.",
        )
    return str(found.experiment_id)


def _find(uri: str, experiment_id: str, run_id: str) -> Run | None:
    if "'" in run_id or "\\" in run_id:
        raise ValueError(f"run id {run_id!r} holds a quote or a backslash")
    runs = client(uri).search_runs(
        [experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}'", max_results=1, order_by=["attributes.start_time ASC"]
    )
    return runs[0] if runs else None


def _log_params(uri: str, run: TrackedRun, params: Mapping[str, str], logged: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    changed = [
        f"{name} was {logged[name]}, now {params[name]}"
        for name in params
        if logged.get(name, params[name]) != params[name]
    ]
    if changed:
        raise UserError(
            f"run {run.run_id} was started with other options: {'; '.join(changed)}.",
            hint="A run id keeps its options: go on with the old ones, or start a new run.",
        )
    new = [Param(name, value) for name, value in params.items() if name not in logged]
    for start in range(0, len(new), ENTITIES_PER_REQUEST):
        client(uri).log_batch(run.mlflow_run_id, params=new[start : start + ENTITIES_PER_REQUEST])


def _log_tags(uri: str, mlflow_run_id: str, tags: Mapping[str, object]) -> None:
    from mlflow.entities import RunTag

    new = [RunTag(name, str(value)[:8000]) for name, value in tags.items()]
    for start in range(0, len(new), ENTITIES_PER_REQUEST):
        client(uri).log_batch(mlflow_run_id, tags=new[start : start + ENTITIES_PER_REQUEST])


def _newest_steps(run: Run) -> dict[str, int]:
    return {str(point.key): int(point.step) for point in run.data.to_proto().metrics}


def _points(record: Record) -> list[Metric]:
    from mlflow.entities import Metric

    points = [Metric(name, value, record.time_ms, record.step) for name, value in record.metrics.items()]
    points.append(Metric(PICTURES_SEEN, float(record.pictures), record.time_ms, record.step))
    if LOSS in record.metrics:
        points.append(Metric(LOSS_BY_PICTURES, record.metrics[LOSS], record.time_ms, record.pictures))
    return points
