"""The page that compares runs: only what differs, which is better, and their curves in one picture."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from jobs.errors import RecoError, UserError
from jobs.run_folder import Record
from jobs.tracking.compared_runs import find_runs, with_best
from jobs.tracking.comparison import Comparison, compare
from jobs.tracking.comparison_report import equal_in_words, leaderboard, sections
from service.contract.messages import RunDetails
from service.web.charts import SERIES
from service.web.curves import Curves, overlaid
from service.web.reading import Missing, Readers
from service.web.session import Visit, Visited

MOST_RUNS = 12
_CURVES = {
    "valid/knn": "k-NN, valid",
    "train/loss": "Loss",
    "health/rank_me": "RankMe of the queue",
}

_log = logging.getLogger("reco.web")

router = APIRouter()


@router.get("/compare")
def compare_runs(
    visit: Visited,
    run: Annotated[list[str], Query(max_length=MOST_RUNS)] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Compare the runs that are named."""
    ids = list(dict.fromkeys(run))
    if len(ids) < 2:
        raise UserError("two runs or more can be compared.", hint="Tick them in the list of runs, then press Compare.")
    runs = [visit.service.runs.show(run_id) for run_id in ids]  # those that the caller may not see are not there
    comparison, trouble = _comparison(visit, ids)
    return visit.page(
        "compare.html",
        runs=runs,
        comparison=comparison,
        trouble=trouble,
        sections=sections(comparison) if comparison else [],
        best=comparison.groups.index(comparison.verdict.ranked[0]) if comparison else None,
        ranked=leaderboard(comparison) if comparison else None,
        equal=equal_in_words(comparison) if comparison else "",
        charts=_charts(visit, runs),
    )


def _comparison(visit: Visit, ids: list[str]) -> tuple[Comparison | None, RecoError | None]:
    """What MLflow knows of them, or why it cannot be told."""
    try:
        uri = visit.control.tracking
        found = find_runs(uri, ids)
        return compare(with_best(uri, found.runs), notes=found.notes), None
    except RecoError as error:
        if visit.caller.project is None:
            return None, error
        # What it says of a run that it does not know names others, which may be of another project, and where it is.
        _log.info("a comparison has curves only: %s", error)
        return None, RecoError(
            "MLflow does not know all of these runs, or does not answer.", hint="A run is there once it trains."
        )


def _charts(visit: Visit, runs: list[RunDetails]) -> list[str]:
    state = visit.request.app.state
    curves: Curves = state.curves
    readers: Readers = state.readers
    records = readers.read(lambda: _records(curves, runs[:SERIES]))  # as one: a page waits for storage only once
    return [] if isinstance(records, Missing) else list(overlaid(records, _CURVES))


def _records(curves: Curves, runs: list[RunDetails]) -> dict[str, list[Record]]:
    found = {}
    for run in runs:
        try:
            found[run.id] = curves.records(run)
        except RecoError:  # its folder is away, or it has none yet: the others are shown
            continue
    return found
