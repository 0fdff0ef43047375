"""Pages of sweeps: the list, and one with its leaderboard."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from service.web.actions import possible
from service.web.reading import Missing, Readers
from service.web.runs import Choice, listing, newest_events
from service.web.session import Visited
from service.web.sweep_charts import objective_chart, options_of, parallel_coordinates, short_names

router = APIRouter()


@router.get("/sweeps")
def list_sweeps(visit: Visited, asked: Choice) -> Response:
    """Sweeps, filtered, from the newest to the oldest."""
    return listing(visit, "sweep", asked)


@router.get("/sweeps/{run_id}")
def show_sweep(visit: Visited, run_id: str, done: str = "") -> Response:
    """One sweep."""
    run = visit.service.runs.show(run_id)
    if run.kind == "run":
        return RedirectResponse(f"/runs/{run_id}", 303)
    readers: Readers = visit.request.app.state.readers
    read = readers.read(lambda: visit.service.runs.board(run_id))
    board, trouble = (None, read) if isinstance(read, Missing) else (read, None)
    options = short_names(options_of(board.trials)) if board else {}
    return visit.page(
        "sweep.html",
        run=run,
        acts=possible(run),
        board=board,
        trouble=trouble,
        best=next((trial for trial in board.trials if trial.state == "finished"), None) if board else None,
        options=options,
        charts=[chart for chart in (objective_chart(board), parallel_coordinates(board)) if chart] if board else [],
        events=newest_events(visit, run),
        done=done,
    )
