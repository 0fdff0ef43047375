"""Lists of runs: filtered, from the newest to the oldest, a page at a time however many there are."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, literal, select, tuple_

from jobs.errors import UserError
from service.runs.database import Database
from service.runs.records import Run
from service.runs.schema import RunModel, UtcDateTime
from service.runs.states import Condition, State
from service.runs.wanted import Wanted

LARGEST_PAGE = 500

_SINCE = {
    Condition.UNREACHABLE: RunModel.unreachable_since,
    Condition.STALLED: RunModel.stalled_since,
    Condition.STARVED: RunModel.starved_since,
}


class CursorError(UserError):
    """What is to say where a page begins was not given out by a page before."""


@dataclass(frozen=True)
class Page:
    """A part of a list.

    Attributes:
        runs: From the newest to the oldest.
        next: Where the next page begins; None after the last one.
    """

    runs: list[Run]
    next: str | None


class RunList:
    """Lists runs.

    A page begins after the last run of the one before, not after a number of runs: so runs that come meanwhile neither
    repeat nor hide any, and the hundredth page costs what the first does.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, which: Wanted | None = None, *, after: str | None = None, limit: int = 50) -> Page:
        """Runs from the newest to the oldest.

        Args:
            which: Those that are wanted; all by default.
            after: The `next` of the page before.
            limit: At most so many, and at most `LARGEST_PAGE`.

        Raises:
            CursorError: `after` was not given out by a page.
        """
        limit = max(1, min(limit, LARGEST_PAGE))
        chosen = select(RunModel).where(*_clauses(which or Wanted()))
        if after is not None:
            created, run_id = _place(after)
            place = tuple_(literal(created, UtcDateTime()), literal(run_id))
            chosen = chosen.where(tuple_(RunModel.created, RunModel.id) < place)
        chosen = chosen.order_by(RunModel.created.desc(), RunModel.id.desc()).limit(limit + 1)
        with self._database.reading() as session:
            runs = [Run.of(row) for row in session.scalars(chosen)]
        return Page(runs[:limit], _cursor(runs[limit - 1]) if len(runs) > limit else None)

    def unfinished(self) -> list[Run]:
        """All runs that have not ended, the oldest first: what the leader looks after."""
        live = Wanted(states=[state for state in State if not state.is_final])
        chosen = select(RunModel).where(*_clauses(live)).order_by(RunModel.created, RunModel.id)
        with self._database.reading() as session:
            return [Run.of(row) for row in session.scalars(chosen)]

    def counts(self, which: Wanted | None = None) -> dict[State, int]:
        """How many runs are in each state."""
        counted = select(RunModel.state, func.count()).where(*_clauses(which or Wanted())).group_by(RunModel.state)
        with self._database.reading() as session:
            found = {State(state): count for state, count in session.execute(counted).tuples()}
        return {state: found.get(state, 0) for state in State}


def _clauses(which: Wanted) -> list[ColumnElement[bool]]:
    clauses: list[ColumnElement[bool]] = [RunModel.deleted.is_(None)]
    if which.kind is not None:
        clauses.append(RunModel.kind == which.kind)
    if which.states:
        clauses.append(RunModel.state.in_([state.value for state in which.states]))
    if which.name is not None:
        clauses.append(RunModel.name.ilike(_like(which.name), escape="\\"))
    if which.project is not None:
        clauses.append(RunModel.project == which.project)
    if which.owner is not None:
        clauses.append(RunModel.owner == which.owner)
    if which.condition is not None:
        clauses.append(_SINCE[which.condition].is_not(None))
    return clauses


def _like(pattern: str) -> str:
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, f"\\{special}")
    return pattern.replace("*", "%").replace("?", "_")


def _cursor(run: Run) -> str:
    return base64.urlsafe_b64encode(json.dumps([run.created.isoformat(), run.id]).encode()).decode()


def _place(cursor: str) -> tuple[datetime, str]:
    try:
        created, run_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        moment = datetime.fromisoformat(created)
        if moment.tzinfo is None or not isinstance(run_id, str):
            raise ValueError(cursor)
    except (ValueError, TypeError, binascii.Error) as error:
        raise CursorError(
            f"{cursor!r} is not where a page of runs begins.", hint="Pass on the `next` of the page before, unchanged."
        ) from error
    return moment, run_id
