"""The store of runs: what was asked for, what state it is in, and everything that ever happened to it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.runs import rows
from service.runs.database import Database
from service.runs.errors import ConflictError, RunExistsError, TransitionError
from service.runs.leases import Lease, check
from service.runs.records import Attempt, Ending, Event, NewRun, Run
from service.runs.schema import AttemptModel, EventModel, JsonObject, ProgressModel, RunModel
from service.runs.states import Condition, Refusal, Signal, State


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
            kind=new.kind,
            project=new.project,
            owner=new.owner,
            storage=new.storage,
            spec=new.spec,
            spec_hash=new.spec_hash,
            lineage=new.lineage,
            state=State.QUEUED.value,
            reason=words,
            attempts=0,
            budget_from=0,
            version=0,
            created=at,
            updated=at,
        )
        session.add(row)
        try:
            session.flush()
        except IntegrityError as error:
            raise RunExistsError(f"there is a run {new.id} already.", hint="Give the new one another id.") from error
        rows.add_event(session, row, "created", words, {"actor": new.owner}, at)
        session.flush()
        return Run.of(row)

    def get(self, run_id: str) -> Run:
        """A run as it is now; one that was deleted says so.

        Raises:
            UnknownRunError: There is none.
        """
        with self._database.reading() as session:
            return Run.of(rows.run_row(session, run_id))

    def attempts(self, run_id: str) -> list[Attempt]:
        """All attempts of a run, the first one first."""
        chosen = select(AttemptModel).where(AttemptModel.run_id == run_id).order_by(AttemptModel.number)
        with self._database.reading() as session:
            return [Attempt.of(row) for row in session.scalars(chosen)]

    def ended_since(self, moment: datetime) -> list[tuple[Run, Attempt]]:
        """Attempts that have ended since a moment, each with its run as it is now, whatever became of that."""
        chosen = (
            select(RunModel, AttemptModel)
            .join(AttemptModel, AttemptModel.run_id == RunModel.id)
            .where(AttemptModel.ended >= moment)
            .order_by(AttemptModel.ended, AttemptModel.run_id)
        )
        with self._database.reading() as session:
            return [(Run.of(run), Attempt.of(attempt)) for run, attempt in session.execute(chosen).tuples()]

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
        place: str | None = None,
        ending: Ending | None = None,
        due: datetime | None = None,
        data: JsonObject | None = None,
    ) -> Run:
        """Let a signal change a run: with `stop` and `resume`, the only way that a state changes.

        Transition, version, state, attempt and event are one transaction. A signal that changes nothing writes nothing.

        Args:
            run: As it was when this was decided.
            signal: What was asked, decided or observed.
            words: Why, in a sentence; the run's reason if its state changes.
            actor: Who says so.
            lease: The leader's; what is decided under it must be written under it.
            backend: That is to have the attempt's job; with `begin`.
            place: Where that backend's jobs are; likewise.
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
            row = rows.run_row(session, run.id, lock=True)
            if row.version != run.version:
                raise ConflictError(
                    f"run {run.id} has changed: it is at event {row.version}, this was decided at {run.version}.",
                    hint="Look at it again.",
                )
            told: JsonObject = {"actor": actor, **(data or {})}
            at = self._database.clock()
            return rows.move(
                session, row, signal, words, told, at, backend=backend, place=place, ending=ending, due=due
            )

    def stop(self, run_id: str, *, actor: str, words: str, data: JsonObject | None = None) -> Run:
        """Ask a run to stop, whatever it is doing; asking again changes nothing.

        No version is compared: a wish is not decided on what a run was, and one that changes often must hear it too.

        Raises:
            TransitionError: It has ended.
            UnknownRunError: There is no such run.
        """
        with self._database.writing() as session:
            row = rows.run_row(session, run_id, lock=True)
            told: JsonObject = {"actor": actor, **(data or {})}
            return rows.move(session, row, Signal.STOP, words, told, self._database.clock())

    def resume(
        self,
        run_id: str,
        *,
        actor: str,
        words: str,
        spec: str | None = None,
        spec_hash: str | None = None,
        data: JsonObject | None = None,
    ) -> Run:
        """Let a run that failed or was cancelled go on: queued again, with all retry budgets new.

        Args:
            run_id: The run.
            actor: Who asks.
            words: Why, in a sentence.
            spec: What it goes on with; as it was by default.
            spec_hash: Of that.
            data: More, for the event.

        Raises:
            TransitionError: It has not ended, or has succeeded.
            DeletedRunError: Nothing is left to go on with.
            UnknownRunError: There is no such run.
        """
        with self._database.writing() as session:
            row = rows.run_row(session, run_id, lock=True)
            row.spec = row.spec if spec is None else spec
            row.spec_hash = row.spec_hash if spec_hash is None else spec_hash
            told: JsonObject = {"actor": actor, **(data or {})}
            return rows.move(session, row, Signal.RESUME, words, told, self._database.clock())

    def delete(self, run_id: str, *, actor: str, words: str, data: JsonObject | None = None) -> Run:
        """Leave a run that has ended out of every list, for good; what happened to it is kept. Again changes nothing.

        This is said first and its folder deleted afterwards: the other way round, somebody might resume it in between.

        Raises:
            TransitionError: It has not ended.
            UnknownRunError: There is no such run.
        """
        with self._database.writing() as session:
            row = rows.run_row(session, run_id, lock=True)
            state = State(row.state)
            if not state.is_final:
                raise TransitionError(run_id, Refusal(state, "delete"))
            if row.deleted is None:
                row.deleted = self._database.clock()
                rows.add_event(session, row, "deleted", words, {"actor": actor, **(data or {})}, row.deleted)
                session.flush()
            return Run.of(row)

    def set_condition(
        self, run_id: str, condition: Condition, *, holds: bool, words: str, lease: Lease | None = None
    ) -> Run:
        """Note that a condition begins or ends to hold; the state stays. Saying it again writes nothing.

        A run that has ended has no conditions: nothing is noted.
        """
        with self._database.writing() as session:
            if lease is not None:
                check(session, lease)
            row = rows.run_row(session, run_id, lock=True)
            held = condition in Run.of(row).conditions
            if held != holds and not State(row.state).is_final:
                setattr(row, f"{condition}_since", self._database.clock() if holds else None)
                told: JsonObject = {"condition": condition.value, "holds": holds}
                rows.add_event(session, row, "condition", words, told, self._database.clock())
                session.flush()
            return Run.of(row)

    def note(
        self, run_id: str, words: str, *, actor: str, data: JsonObject | None = None, lease: Lease | None = None
    ) -> Event:
        """Add something to what happened to a run, without changing it."""
        with self._database.writing() as session:
            if lease is not None:
                check(session, lease)
            row = rows.run_row(session, run_id, lock=True)
            told: JsonObject = {"actor": actor, **(data or {})}
            event = rows.add_event(session, row, "note", words, told, self._database.clock())
            session.flush()
            return Event.of(event)

    def save_progress(self, run_id: str, data: JsonObject, *, lease: Lease | None = None) -> None:
        """Keep how far a run is, in place of what it said before; no event, and saying it again writes nothing.

        Args:
            run_id: The run.
            data: What its folder says; numbers that are none become null, as databases know no others.
            lease: The leader's.

        Raises:
            NotLeaderError: The lease is another's.
            UnknownRunError: There is no such run.
        """
        with self._database.writing() as session:
            if lease is not None:
                check(session, lease)
            rows.run_row(session, run_id, lock=True)  # of two that say something at once, one waits
            said = rows.storable(data)
            row = session.get(ProgressModel, run_id)
            if row is None:
                session.add(ProgressModel(run_id=run_id, at=self._database.clock(), data=said))
            elif row.data != said:
                row.at, row.data = self._database.clock(), said

    def progress_of(self, run_ids: Collection[str]) -> dict[str, tuple[datetime, JsonObject]]:
        """How far runs are, and when that was new; those that have said nothing yet are left out."""
        if not run_ids:
            return {}
        chosen = select(ProgressModel).where(ProgressModel.run_id.in_(run_ids))
        with self._database.reading() as session:
            return {row.run_id: (row.at, row.data) for row in session.scalars(chosen)}
