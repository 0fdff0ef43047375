"""How a change of a run is written into its rows, within a transaction that the store has begun."""

from __future__ import annotations

import math
from datetime import datetime

from sqlalchemy.orm import Session

from service.runs.errors import DeletedRunError, TransitionError, UnknownRunError
from service.runs.records import Attempt, Ending, Run
from service.runs.schema import AttemptModel, EventModel, JsonObject, JsonValue, RunModel
from service.runs.states import Refusal, Signal, Snapshot, State, advance, submission_id

_INTEGERS = 2**63


def run_row(session: Session, run_id: str, *, lock: bool = False) -> RunModel:
    """A run's row; locked, nobody else changes it until the transaction ends, so comparing and setting are one.

    Raises:
        UnknownRunError: There is none.
    """
    row = session.get(RunModel, run_id, with_for_update=lock)
    if row is None:
        raise UnknownRunError(f"there is no run {run_id}.", hint="`reco runs list` shows those there are.")
    return row


def move(
    session: Session,
    row: RunModel,
    signal: Signal,
    words: str,
    data: JsonObject,
    at: datetime,
    *,
    backend: str = "",
    place: str | None = None,
    ending: Ending | None = None,
    due: datetime | None = None,
) -> Run:
    """What a signal makes of a run whose row is locked; one that changes nothing writes nothing.

    Raises:
        TransitionError: It means nothing in the run's state.
        DeletedRunError: The run is to go on, and nothing is left to go on with.
    """
    attempt = session.get(AttemptModel, (row.id, row.attempts)) if row.attempts else None
    before = Run.of(row).snapshot(None if attempt is None else Attempt.of(attempt))
    after = advance(before, signal)
    if isinstance(after, Refusal):
        raise TransitionError(row.id, after)
    if after == before:
        return Run.of(row)
    if signal is Signal.RESUME:
        if row.deleted is not None:
            raise DeletedRunError(
                f"run {row.id} was deleted on {row.deleted:%Y-%m-%d %H:%M} UTC, with its checkpoints.",
                hint="Start a new one with its spec.",
            )
        row.budget_from = after.attempts
    if after.attempts > before.attempts:
        attempt = _new_attempt(row.id, after.attempts, backend, place, at)
        session.add(attempt)
    _carry_over(row, attempt, after, ending or Ending(), at=at, due=due)
    if after.state is not before.state:
        row.reason = words
    add_event(session, row, signal.value, words, {**data, **_told(after, ending)}, at)
    session.flush()
    return Run.of(row)


def add_event(session: Session, row: RunModel, kind: str, words: str, data: JsonObject, at: datetime) -> EventModel:
    """Raise a run's version, and add the event of that number."""
    row.version += 1
    row.updated = at
    told: JsonObject = {"state": row.state, **data}
    event = EventModel(run_id=row.id, number=row.version, at=at, kind=kind, words=words, data=told)
    session.add(event)
    return event


def storable(said: JsonObject) -> JsonObject:
    """What a job said, as both databases can keep it: PostgreSQL refuses NaN, infinity and the character 0 in JSON.

    Nor is an integer kept that takes more than 64 bits: it may be larger than any float, and counting with it fails.
    """
    return {_clean_text(key): _clean(value) for key, value in said.items()}


def _clean(value: JsonValue) -> JsonValue:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case int():
            return value if -_INTEGERS <= value < _INTEGERS else None
        case str():
            return _clean_text(value)
        case dict():
            return storable(value)
        case list():
            return [_clean(each) for each in value]
        case _:
            return value


def _clean_text(text: str) -> str:
    return text.replace("\0", "")


def _new_attempt(run_id: str, number: int, backend: str, place: str | None, at: datetime) -> AttemptModel:
    submission = submission_id(run_id, number)
    return AttemptModel(
        run_id=run_id, number=number, submission_id=submission, backend=backend, place=place, started=at
    )


def _carry_over(
    row: RunModel,
    attempt: AttemptModel | None,
    after: Snapshot,
    ending: Ending,
    *,
    at: datetime,
    due: datetime | None,
) -> None:
    """Write what a signal made of a run into its rows."""
    row.state, row.attempts = after.state.value, after.attempts
    row.due = due if after.state is State.RECOVERING else None
    if not after.state.has_live_attempt:
        row.unreachable_since = row.stalled_since = row.starved_since = None
    if attempt is None or after.attempt is None:
        return
    was_over = attempt.ended is not None
    attempt.state = after.attempt.value
    if after.attempt.is_final and not was_over:
        attempt.ended = at
        attempt.cause = None if ending.cause is None else ending.cause.value
        attempt.exit_code, attempt.step = ending.exit_code, ending.step


def _told(after: Snapshot, ending: Ending | None) -> JsonObject:
    told: JsonObject = {}
    if after.attempts:
        told["attempt"] = after.attempts
    if ending is not None and ending.cause is not None:
        told["cause"] = ending.cause.value
    if ending is not None and ending.exit_code is not None:
        told["exit_code"] = ending.exit_code
    return told
