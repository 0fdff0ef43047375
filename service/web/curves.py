"""What a run measured, as charts: from the records of its folder, and the newest point that its progress tells."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from jobs.errors import RecoError
from jobs.run_folder import Record, RunFolder
from jobs.tracking.figures import LOSS_NAMES
from service.contract.messages import RunDetails, RunView
from service.control.job import PATIENCE_S
from service.web.charts import Point, Series, line_chart
from service.web.words import is_number

_KEPT = 32
"""Runs whose records stay in memory: a page that is looked at asks for them every few seconds."""
_MARKED = 60
"""Most points of a series that are drawn as such."""
_Stored = tuple[tuple[str, int], ...]

_BASELINES = {"valid/knn_untrained": "untrained", "valid/knn_raw_pixels": "raw pixels"}
_PROBES = {"valid/knn": "k-NN, valid", "test/knn": "k-NN, test", "valid/linear": "linear, valid"}
_RANKS = {"valid/rank_me": "valid", "health/rank_me": "queue"}
_SPHERE = {"health/alignment": "alignment", "health/uniformity": "uniformity"}
_SPREAD = {"health/feature_std": "spread of keys", "health/positive_negative_gap": "gap to negatives"}


class Curves:
    """Reads records, and reads them again only when a run has written more."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[_Stored, list[Record]]] = OrderedDict()
        self._lock = threading.Lock()

    def records(self, run: RunView) -> list[Record]:
        """What a run has measured so far.

        Raises:
            RecoError: The run's folder cannot be read, or what it holds.
        """
        folder = RunFolder(run.storage, run.id, patience_s=PATIENCE_S)
        stored = tuple((each.key, each.size) for each in folder.storage.list("metrics/"))
        with self._lock:
            known = self._known.get(folder.url)
        if known is None or known[0] != stored:
            try:
                known = (stored, [_checked(record) for record in folder.records()])
            except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecoError(f"the records in {folder.url} are damaged: {error}.") from error
            with self._lock:
                self._known[folder.url] = known
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return _with_progress(known[1], run.progress or {})

    def of(self, run: RunDetails) -> list[Markup]:
        """The charts of one run.

        Raises:
            RecoError: The run's folder cannot be read, or what it holds.
        """
        records = self.records(run)
        results = (run.outcome or {}).get("results")
        baselines = [
            (words, float(value))
            for name, words in _BASELINES.items()
            if isinstance(results, Mapping) and is_number(value := results.get(name))
        ]
        percent = 100.0
        charts = [
            line_chart(_series(records, LOSS_NAMES), title="Loss"),
            line_chart(_series(records, _PROBES, marked=True), title="Accuracy", unit="%", references=baselines),
            line_chart(_series(records, _RANKS, marked=True), title="RankMe", unit="directions used"),
            line_chart(_series(records, _SPREAD), title="Spread of features", unit="1 = even"),
            line_chart(_series(records, _SPHERE), title="On the sphere"),
            line_chart(_series(records, {"health/gradient_norm": "gradient"}), title="Gradient norm"),
            line_chart(_series(records, {"train/learning_rate": "learning rate"}), title="Learning rate"),
            line_chart(_series(records, {"time/pictures_per_s": "speed"}), title="Speed", unit="pictures/s"),
            line_chart(
                _series(records, {"time/data_wait": "waiting for data", "time/saving": "saving"}, times=percent),
                title="Time not spent on training",
                unit="%",
            ),
        ]
        return [chart for chart in charts if chart]


def overlaid(runs: Mapping[str, Sequence[Record]], metrics: Mapping[str, str]) -> list[Markup]:
    """A chart for each metric, with a line for each run that has it.

    Args:
        runs: Records by the name in the legend.
        metrics: Title of the chart by name of the metric.
    """
    charts = []
    for metric, title in metrics.items():
        lines = [each for name, records in runs.items() for each in _series(records, {metric: name}, marked=True)]
        charts.append(line_chart(lines, title=title, unit="%" if "knn" in metric else ""))
    return [chart for chart in charts if chart]


def _series(
    records: Sequence[Record], names: Mapping[str, str], *, marked: bool = False, times: float = 1.0
) -> list[Series]:
    found = ((words, _points(records, name, times)) for name, words in names.items())
    return [Series(words, points, marked and len(points) <= _MARKED) for words, points in found if points]


def _points(records: Sequence[Record], name: str, times: float = 1.0) -> list[Point]:
    return [
        (float(record["pictures"]), value * times)
        for record in records
        if (value := record["metrics"].get(name)) is not None and math.isfinite(value)
    ]


def _checked(record: Record) -> Record:
    """A record as it should be, or an error: a job wrote it, and charts believe what they are given."""
    metrics = {str(name): float(value) for name, value in record["metrics"].items()}
    return Record(step=int(record["step"]), pictures=int(record["pictures"]), metrics=metrics)


def _with_progress(records: list[Record], progress: Mapping[str, object]) -> list[Record]:
    """Records are written with each checkpoint: what was measured since is in the progress, as its newest point."""
    step, metrics = progress.get("step"), progress.get("metrics")
    last = records[-1] if records else None
    if not isinstance(step, int) or not isinstance(metrics, Mapping) or not metrics:
        return records
    if last is None or last["step"] <= 0 or step <= last["step"]:
        return records
    pictures = round(last["pictures"] * step / last["step"])  # every step sees as many
    known = {str(name): float(value) for name, value in metrics.items() if is_number(value)}
    return [*records, Record(step=step, pictures=pictures, metrics=known)]
