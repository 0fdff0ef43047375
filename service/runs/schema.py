"""The tables of the control plane, as typed declarative models; `migrations/` makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

from sqlalchemy import JSON, Dialect, ForeignKey, Index, MetaData, String, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its time zone: SQLite keeps none, so it is given UTC and gives UTC back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database; a moment without a time zone is a mistake of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_JSON = JSON().with_variant(JSONB(), "postgresql")
_ID = String(160)
_NAME = String(200)


class Base(DeclarativeBase):
    """Of all tables. Constraints have names, since a migration can only change what it can name."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime()}  # noqa: RUF012 - SQLAlchemy reads it


def _listed(*columns: str) -> Index:
    """An index of the runs that lists show: those that are not deleted."""
    there = text("deleted IS NULL")
    return Index(f"ix_runs_{'_'.join(columns)}", *columns, sqlite_where=there, postgresql_where=there)


class RunModel(Base):
    """A run. `version` is the number of its last event, and what optimistic locking compares."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(_NAME)
    project: Mapped[str] = mapped_column(_NAME)
    owner: Mapped[str] = mapped_column(_NAME)
    spec: Mapped[str] = mapped_column(Text)
    spec_hash: Mapped[str] = mapped_column(String(64), index=True)
    lineage: Mapped[JsonObject] = mapped_column(_JSON)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    version: Mapped[int]
    created: Mapped[datetime]
    updated: Mapped[datetime]
    due: Mapped[datetime | None]
    unreachable_since: Mapped[datetime | None]
    stalled_since: Mapped[datetime | None]
    starved_since: Mapped[datetime | None]
    kind: Mapped[str] = mapped_column(String(16), server_default="run")
    storage: Mapped[str] = mapped_column(Text, server_default="")
    budget_from: Mapped[int] = mapped_column(server_default="0")
    deleted: Mapped[datetime | None]

    # Pages go from the newest to the oldest, and `id` tells apart what was made in one moment.
    __table_args__ = (
        _listed("created", "id"),
        _listed("state", "created", "id"),
        _listed("project", "created", "id"),
        _listed("owner", "created", "id"),
        _listed("kind", "created", "id"),
        _listed("name", "state"),
    )


class AttemptModel(Base):
    """One job of a run."""

    __tablename__ = "attempts"

    run_id: Mapped[str] = mapped_column(_ID, ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    submission_id: Mapped[str] = mapped_column(String(200), unique=True)
    backend: Mapped[str] = mapped_column(_NAME)
    place: Mapped[str | None] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    started: Mapped[datetime]
    ended: Mapped[datetime | None] = mapped_column(index=True)
    cause: Mapped[str | None] = mapped_column(String(32))
    exit_code: Mapped[int | None]
    step: Mapped[int | None]

    # Never two live attempts of a run: the table of states says so, and this holds whatever the code does.
    __table_args__ = (
        Index(
            "ix_attempts_one_live",
            "run_id",
            unique=True,
            sqlite_where=text("ended IS NULL"),
            postgresql_where=text("ended IS NULL"),
        ),
    )


class EventModel(Base):
    """Something that happened to a run; append-only, numbered from 1 without gaps."""

    __tablename__ = "events"

    run_id: Mapped[str] = mapped_column(_ID, ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    words: Mapped[str] = mapped_column(Text)
    data: Mapped[JsonObject] = mapped_column(_JSON)


class ProgressModel(Base):
    """How far a run was when its folder last said so; what it said before is not kept."""

    __tablename__ = "progress"

    run_id: Mapped[str] = mapped_column(_ID, ForeignKey("runs.id"), primary_key=True)
    at: Mapped[datetime]
    data: Mapped[JsonObject] = mapped_column(_JSON)


class TokenModel(Base):
    """A token: only its hash, and enough of its beginning to tell which one it is."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(_NAME)
    owner: Mapped[str] = mapped_column(_NAME, index=True)
    role: Mapped[str] = mapped_column(String(32))
    scopes: Mapped[str] = mapped_column(Text)
    project: Mapped[str | None] = mapped_column(_NAME)
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    last_used: Mapped[datetime | None]
    revoked: Mapped[datetime | None]


class AuditModel(Base):
    """Who did what; append-only."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(_NAME, index=True)
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(300), index=True)
    data: Mapped[JsonObject] = mapped_column(_JSON)


class LeaseModel(Base):
    """Who may do what only one may; `fence` grows with every change of the holder, and never falls."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    holder: Mapped[str] = mapped_column(_NAME)
    until: Mapped[datetime]
    fence: Mapped[int]


class IdempotencyModel(Base):
    """What a request was answered, for the client that asks again because it never heard."""

    __tablename__ = "idempotency_keys"

    project: Mapped[str] = mapped_column(_NAME, primary_key=True)
    key: Mapped[str] = mapped_column(_NAME, primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    response: Mapped[JsonObject] = mapped_column(_JSON)
    at: Mapped[datetime] = mapped_column(index=True)
