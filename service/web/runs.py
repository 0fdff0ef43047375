"""Pages of runs: the list, one run, and its log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response

from service.contract.interface import Wanted
from service.contract.messages import EventView, RunDetails, RunPage
from service.runs.errors import UnknownRunError
from service.runs.states import Condition, Kind, State
from service.web.actions import possible
from service.web.curves import Curves
from service.web.reading import Readers
from service.web.session import Visit, Visited

PAGE = 50
_EVENTS = 200
"""The newest events that a page shows."""

router = APIRouter()

States = Annotated[list[State], Query(alias="state")]
AnyCondition = Condition | Literal[""]


@router.get("/")
def home() -> Response:
    """Runs are what people come for."""
    return RedirectResponse("/runs", 303)


class Asked:
    """Which runs a list is to show, as its address says it."""

    def __init__(
        self,
        states: States = [],  # noqa: B006 - FastAPI copies it
        name: str = "",
        project: str = "",
        owner: str = "",
        condition: AnyCondition = "",
        after: str | None = None,
        done: str = "",
    ) -> None:
        self.states, self.condition, self.after, self.done = states, condition, after, done
        self.name, self.project, self.owner = name.strip(), project.strip(), owner.strip()


Choice = Annotated[Asked, Depends()]


@router.get("/runs")
def list_runs(visit: Visited, asked: Choice) -> Response:
    """Runs, filtered, from the newest to the oldest."""
    return listing(visit, "run", asked)


@router.get("/runs/{run_id}")
def show_run(visit: Visited, run_id: str, brief: bool = False, done: str = "") -> Response:
    """One run.

    Args:
        visit: Who asks.
        run_id: The run.
        brief: Without what takes reading the run's folder; a page that is open asks for it so, mostly.
        done: What was just asked for.
    """
    run = visit.service.runs.show(run_id)
    if run.kind == "sweep":
        return RedirectResponse(f"/sweeps/{run_id}", 303)
    state = visit.request.app.state
    curves: Curves = state.curves
    readers: Readers = state.readers
    shown = None if brief else readers.read(lambda: curves.of(run))
    kept = None if brief else readers.read(lambda: visit.service.runs.checkpoints(run_id))
    return visit.page(
        "run.html",
        run=run,
        acts=possible(run),
        curves=shown,
        checkpoints=kept,
        events=newest_events(visit, run),
        brief=brief,
        done=done,
    )


@router.get("/runs/{run_id}/log")
def show_log(
    visit: Visited, run_id: str, attempt: int | None = None, offset: Annotated[int, Query(ge=0)] = 0
) -> Response:
    """A part of an attempt's log; the page's script asks for the parts after it."""
    run = visit.service.runs.show(run_id)
    chunk = visit.service.runs.log(run_id, attempt=attempt, offset=offset)
    return visit.page("log.html", run=run, chunk=chunk)


def listing(visit: Visit, kind: Kind, asked: Asked) -> Response:
    """The page with a list of runs or of sweeps."""
    name = asked.name
    wanted = Wanted(
        states=asked.states,
        kind=kind,
        name=(name if set(name) & set("*?") else f"*{name}*") if name else None,
        project=asked.project or None,
        owner=asked.owner or None,
        condition=asked.condition or None,
    )
    found = visit.service.runs.page(wanted, after=asked.after, limit=PAGE)
    if not found.runs and name and (run := _by_id(visit, name)) is not None:
        return RedirectResponse(f"/{run.kind}s/{run.id}", 303)
    filled = {"name": name, "project": asked.project, "owner": asked.owner, "condition": str(asked.condition)}
    return visit.page(
        f"{kind}s.html",
        found=found,
        counts=_counts(visit, wanted, found, asked.after),
        asked=filled,
        chosen=asked.states,
        after=asked.after,
        link=_linked(visit.request, filled),
        done=asked.done,
    )


def newest_events(visit: Visit, run: RunDetails) -> list[EventView]:
    """What happened to a run last, the newest first; an event's number is the run's version then."""
    return visit.service.runs.events(run.id, after=max(run.version - _EVENTS, 0), limit=_EVENTS)[::-1]


def _counts(visit: Visit, wanted: Wanted, found: RunPage, after: str | None) -> dict[State, int] | None:
    """How many there are in each state, whichever states are chosen."""
    if not wanted.states or after is not None:
        return found.counts
    return visit.service.runs.page(replace(wanted, states=()), limit=1).counts


def _by_id(visit: Visit, run_id: str) -> RunDetails | None:
    try:
        return visit.service.runs.show(run_id)
    except UnknownRunError:
        return None


def _linked(request: Request, asked: dict[str, str]) -> Callable[..., str]:
    """Addresses of the same list with another choice."""

    def link(*, states: list[State] | None = None, after: str | None = None) -> str:
        pairs = [(name, value) for name, value in asked.items() if value]
        pairs += [("state", state.value) for state in states or []]
        pairs += [("after", after)] if after else []
        return f"{request.url.path}?{urlencode(pairs)}" if pairs else request.url.path

    return link
