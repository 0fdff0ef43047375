"""The store of runs: what was asked for, what state it is in, and everything that ever happened to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.runs.database import Database
from service.runs.errors import ConflictError, RunExistsError, TransitionError, UnknownRunError
from service.runs.leases import Lease, check
from service.runs.records import Attempt, Event, NewRun, Run
from service.runs.retry import Cause
from service.runs.schema import AttemptModel, EventModel, JsonObject, RunModel
from service.runs.states import Condition, Refusal, Signal, Snapshot, State, advance, submission_id


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, for the signals that end one.

    Attributes:
        cause: What ended it; None where it succeeded or was stopped.
        exit_code: Of its job, where somebody saw it.
        step: Of the newest checkpoint.
    """

    cause: Cause | None = None
    exit_code: int | None = None
    step: int | None = None


class RunStore:
    """Runs, their attempts and their events.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewRun, *, words: str = "Stored.") -> Run:
        """Store a run, queued.

        Raises:
            RunExistsError: Its id is taken.
        """
        with self._database.writing() as session:
            return self.create_in(session, new, words=words)

    def create_in(self, session: Session, new: NewRun, *, words: str = "Stored.") -> Run:
        """The same as part of a larger transaction, such as one that also keeps what the client is answered."""
        at = self._database.clock()
        row = RunModel(
            id=new.id,
            name=new.name,
            project=new.project,
            owner=new.owner,
            spec=new.spec,
            spec_hash=new.spec_hash,
            lineage=new.lineage,
            state=State.QUEUED.value,
            reason=words,
            attempts=0,
            version=0,
            created=at,
            updated=at,
        )
        session.add(row)
        try:
            session.flush()
        except IntegrityError as error:
            raise RunExistsError(f"there is a run {new.id} already.", hint="Give the new one another id.") from error
        self._note(session, row, "created", words, {"actor": new.owner})
        session.flush()
        return Run.of(row)

    def get(self, run_id: str) -> Run:
        """A run as it is now.

        Raises:
            UnknownRunError: There is none.
        """
        with self._database.reading() as session:
            return Run.of(_row(session, run_id))

    def attempts(self, run_id: str) -> list[Attempt]:
        """All attempts of a run, the first one first."""
        chosen = select(AttemptModel).where(AttemptModel.run_id == run_id).order_by(AttemptModel.number)
        with self._database.reading() as session:
            return [Attempt.of(row) for row in session.scalars(chosen)]

    def attempt_of(self, submission: str) -> Attempt | None:
        """The attempt whose job goes by that id; None where it is none of ours."""
        with self._database.reading() as session:
            row = session.scalar(select(AttemptModel).where(AttemptModel.submission_id == submission))
            return None if row is None else Attempt.of(row)

    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """What happened to a run, in order.

        Args:
            run_id: The run.
            after: Number of the last event that is known already.
            limit: At most so many.
        """
        chosen = (
            select(EventModel)
            .where(EventModel.run_id == run_id, EventModel.number > after)
            .order_by(EventModel.number)
            .limit(limit)
        )
        with self._database.reading() as session:
            return [Event.of(row) for row in session.scalars(chosen)]

    def move(
        self,
        run: Run,
        signal: Signal,
        *,
        words: str,
        actor: str,
        lease: Lease | None = None,
        backend: str = "",
        ending: Ending | None = None,
        due: datetime | None = None,
        data: JsonObject | None = None,
    ) -> Run:
        """Let a signal change a run: with `stop`, the only way that a state changes.

        Transition, version, state, attempt and event are one transaction. A signal that changes nothing writes nothing.

        Args:
            run: As it was when this was decided.
            signal: What was asked, decided or observed.
            words: Why, in a sentence; the run's reason if its state changes.
            actor: Who says so.
            lease: The leader's; what is decided under it must be written under it.
            backend: That is to have the attempt's job; with `begin`.
            ending: How the attempt ended; with a signal that ends it.
            due: When the next attempt may begin; with `lost`.
            data: More, for the event.

        Returns:
            The run as it is now.

        Raises:
            ConflictError: It has changed since.
            TransitionError: The signal means nothing in its state.
            NotLeaderError: The lease is another's.
            UnknownRunError: There is no such run.
        """
        with self._database.writing() as session:
            if lease is not None:
                check(session, lease)
            row = _row(session, run.id, lock=True)
            if row.version != run.version:
                raise ConflictError(
                    f"run {run.id} has changed: it is at event {row.version}, this was decided at {run.version}.",
                    hint="Look at it again.",
                )
            told: JsonObject = {"actor": actor, **(data or {})}
            return self._move(session, row, signal, words, told, backend=backend, ending=ending, due=due)

    def stop(self, run_id: str, *, actor: str, words: str, data: JsonObject | None = None) -> Run:
        """Ask a run to stop, whatever it is doing; asking again changes nothing.

        No version is compared: a wish is not decided on what a run was, and one that changes often must hear it too.

        Raises:
            TransitionError: It has ended.
            UnknownRunError: There is no such run.
        """
        with self._database.writing() as session:
            row = _row(session, run_id, lock=True)
            return self._move(session, row, Signal.STOP, words, {"actor": actor, **(data or {})})

    def set_condition(
        self, run_id: str, condition: Condition, *, holds: bool, words: str, lease: Lease | None = None
    ) -> Run:
        """Note that a condition begins or ends to hold; the state stays. Saying it again writes nothing.

        A run that has ended has no conditions: nothing is noted.
        """
        with self._database.writing() as session:
            if lease is not None:
                check(session, lease)
            row = _row(session, run_id, lock=True)
            held = condition in Run.of(row).conditions
            if held != holds and not State(row.state).is_final:
                setattr(row, f"{condition}_since", self._database.clock() if holds else None)
                self._note(session, row, "condition", words, {"condition": condition.value, "holds": holds})
                session.flush()
            return Run.of(row)

    def note(self, run_id: str, words: str, *, actor: str, data: JsonObject | None = None) -> Event:
        """Add something to what happened to a run, without changing it."""
        with self._database.writing() as session:
            row = _row(session, run_id, lock=True)
            event = self._note(session, row, "note", words, {"actor": actor, **(data or {})})
            session.flush()
            return Event.of(event)

    def _move(
        self,
        session: Session,
        row: RunModel,
        signal: Signal,
        words: str,
        data: JsonObject,
        *,
        backend: str = "",
        ending: Ending | None = None,
        due: datetime | None = None,
    ) -> Run:
        """What a signal makes of a run whose row is locked."""
        attempt = session.get(AttemptModel, (row.id, row.attempts)) if row.attempts else None
        before = Run.of(row).snapshot(None if attempt is None else Attempt.of(attempt))
        after = advance(before, signal)
        if isinstance(after, Refusal):
            raise TransitionError(row.id, after)
        if after == before:
            return Run.of(row)
        at = self._database.clock()
        if after.attempts > before.attempts:
            attempt = _new_attempt(row.id, after.attempts, backend, at)
            session.add(attempt)
        _carry_over(row, attempt, after, ending or Ending(), at=at, due=due)
        if after.state is not before.state:
            row.reason = words
        self._note(session, row, signal.value, words, {**data, **_told(after, ending)})
        session.flush()
        return Run.of(row)

    def _note(self, session: Session, row: RunModel, kind: str, words: str, data: JsonObject) -> EventModel:
        """Raise a run's version, and add the event of that number."""
        row.version += 1
        row.updated = self._database.clock()
        told: JsonObject = {"state": row.state, **data}
        event = EventModel(run_id=row.id, number=row.version, at=row.updated, kind=kind, words=words, data=told)
        session.add(event)
        return event


def _row(session: Session, run_id: str, *, lock: bool = False) -> RunModel:
    """A run's row; locked, nobody else changes it until the transaction ends, so comparing and setting are one."""
    row = session.get(RunModel, run_id, with_for_update=lock)
    if row is None:
        raise UnknownRunError(f"there is no run {run_id}.", hint="`reco runs list` shows those there are.")
    return row


def _new_attempt(run_id: str, number: int, backend: str, at: datetime) -> AttemptModel:
    submission = submission_id(run_id, number)
    return AttemptModel(run_id=run_id, number=number, submission_id=submission, backend=backend, started=at)


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
