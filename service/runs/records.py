"""What the store hands out: runs, attempts and events as plain values that no session has to be open for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from service.runs.retry import Cause, Ended
from service.runs.schema import AttemptModel, EventModel, JsonObject, RunModel
from service.runs.states import AttemptState, Condition, Kind, Snapshot, State


@dataclass(frozen=True)
class NewRun:
    """A run to be stored.

    Attributes:
        id: Of the run, its folder and its MLflow run.
        name: What its spec calls it; many runs may have one name.
        spec: As YAML.
        spec_hash: Of the spec.
        owner: Who asked for it.
        project: Whose it is.
        lineage: What it came from, such as a sweep or the run it continues.
        kind: `run`, or `sweep`.
        storage: Folder or S3 prefix that its folder is in.
    """

    id: str
    name: str
    spec: str
    spec_hash: str
    owner: str
    project: str = "default"
    lineage: JsonObject = field(default_factory=dict)
    kind: Kind = "run"
    storage: str = ""


@dataclass(frozen=True)
class Run:
    """A run as it was when it was read.

    Attributes:
        kind: `run`, or `sweep`.
        storage: Folder or S3 prefix that its folder is in.
        version: Number of its last event; a change is only written while it is still this one.
        attempts: How many there were, the one under way included.
        due: When the next attempt may begin, while it recovers.
        conditions: Those that hold, and since when.
        budget_from: Attempts up to this number count for no retry budget: it was resumed after them.
        deleted: When it was; its folder is gone, and lists leave it out.
    """

    id: str
    name: str
    kind: Kind
    project: str
    owner: str
    storage: str
    spec: str
    spec_hash: str
    lineage: JsonObject
    state: State
    reason: str
    attempts: int
    version: int
    created: datetime
    updated: datetime
    due: datetime | None
    conditions: Mapping[Condition, datetime]
    budget_from: int
    deleted: datetime | None

    @classmethod
    def of(cls, row: RunModel) -> Run:
        """From its row."""
        since = {condition: getattr(row, f"{condition}_since") for condition in Condition}
        return cls(
            id=row.id,
            name=row.name,
            kind=_kind(row.kind),
            project=row.project,
            owner=row.owner,
            storage=row.storage,
            spec=row.spec,
            spec_hash=row.spec_hash,
            lineage=row.lineage,
            state=State(row.state),
            reason=row.reason,
            attempts=row.attempts,
            version=row.version,
            created=row.created,
            updated=row.updated,
            due=row.due,
            conditions={condition: at for condition, at in since.items() if at is not None},
            budget_from=row.budget_from,
            deleted=row.deleted,
        )

    def snapshot(self, attempt: Attempt | None) -> Snapshot:
        """The run as far as its states go.

        Args:
            attempt: Its last one.
        """
        return Snapshot(self.state, self.attempts, None if attempt is None else attempt.state)


@dataclass(frozen=True)
class Attempt:
    """One job of a run.

    Attributes:
        place: Where its job is, as `Backend.place` says; None of one that began before that was noted.
        step: Of the newest checkpoint when it ended.
    """

    run_id: str
    number: int
    submission_id: str
    backend: str
    place: str | None
    state: AttemptState
    started: datetime
    ended: datetime | None
    cause: Cause | None
    exit_code: int | None
    step: int | None

    @classmethod
    def of(cls, row: AttemptModel) -> Attempt:
        """From its row."""
        return cls(
            run_id=row.run_id,
            number=row.number,
            submission_id=row.submission_id,
            backend=row.backend,
            place=row.place,
            state=AttemptState(row.state),
            started=row.started,
            ended=row.ended,
            cause=None if row.cause is None else Cause(row.cause),
            exit_code=row.exit_code,
            step=row.step,
        )

    def is_at(self, place: str) -> bool:
        """Whether its job is there; where nobody noted the place, the backend's name has to do."""
        return self.place in (None, place)

    def counted(self) -> Ended | None:
        """The attempt for `retry.spent_on`; None where it did not end without a result."""
        return None if self.cause is None else Ended(self.cause, self.step or 0)


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


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        number: From 1, without gaps; the run's version then.
        kind: The signal, `created`, `condition`, `deleted` or `note`.
        words: A sentence for a person.
        data: The same for a program; `actor` says who, `state` what the run is now.
    """

    run_id: str
    number: int
    at: datetime
    kind: str
    words: str
    data: JsonObject

    @classmethod
    def of(cls, row: EventModel) -> Event:
        """From its row."""
        return cls(row.run_id, row.number, row.at, row.kind, row.words, row.data)


def _kind(name: str) -> Kind:
    return "sweep" if name == "sweep" else "run"
