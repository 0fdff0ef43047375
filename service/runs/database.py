"""The database behind the store: SQLite or PostgreSQL, opened, brought up to date, and asked in whole transactions."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from typing import Self

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.runs.errors import SchemaError, StoreError

Clock = Callable[[], datetime]
"""Says what time it is, with a time zone."""

_BUSY_S = 30.0
"""Longest that a writer waits for another."""
_CONNECT_S = 5
"""Longest that a server may take to answer the first time: a thread of the API waits for it."""
_KEPT, _MORE = 10, 30
"""Connections that stay open, and those beyond them: together one for each thread that serves requests."""
_WRITES = "reco_writes"
_migrating = threading.Lock()  # Alembic keeps what it is at in globals
_MIGRATING = 0x7265636F  # of the lock that processes take which open one database at once; any number but the same


def now() -> datetime:
    """The time, as the store keeps it."""
    return datetime.now(UTC)


class Database:
    """An open database of the current schema.

    Use `open_database` to make one.

    Args:
        engine: Its tables exist.
        clock: What time it is.
    """

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self.engine = engine
        self.clock = clock
        self._writing = engine.execution_options(**{_WRITES: True})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing."""
        with _explained(self.engine), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are all kept at the end, or none. No network and no waiting inside."""
        with _explained(self.engine), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session


def open_database(url: str, *, clock: Clock = now) -> Database:
    """Open a database and bring its tables up to date; a SQLite file that is not there yet is made.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`, as SQLAlchemy writes it.
        clock: What time it is; tests bring their own.

    Raises:
        StoreError: It cannot be reached.
        SchemaError: The URL is none, or a newer version of this project made the tables.
    """
    engine = _engine(url)
    try:
        _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, clock)


def upgrade(url: str) -> None:
    """Bring the tables of a database up to date; any number of processes may do so at once.

    Raises:
        StoreError: It cannot be reached.
        SchemaError: The URL is none, or a newer version of this project made the tables.
    """
    open_database(url).close()


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SchemaError(
            "the URL of the database cannot be read.", hint="Write sqlite:///FILE or postgresql://USER@HOST/NAME."
        ) from error
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql":
            # A connection that a restart of the server cut is noticed before it is used.
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                pool_size=_KEPT,
                max_overflow=_MORE,
                connect_args={} if "connect_timeout" in parsed.query else {"connect_timeout": _CONNECT_S},
            )
        case other:
            raise SchemaError(f"runs cannot be kept in {other}.", hint="Use a SQLite file or PostgreSQL.")


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise SchemaError("runs cannot be kept in memory.", hint="Name a file: sqlite:///FILE.")
    file = Path(url.database)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)  # what SQLite puts beside it gets the same rights
    except OSError as error:
        raise StoreError(
            f"runs cannot be kept in {file}: {error.strerror or error}.",
            hint="Name a file in a folder you may write to.",
        ) from error
    engine = create_engine(url, pool_size=_KEPT, max_overflow=_MORE, connect_args={"timeout": _BUSY_S})

    @event.listens_for(engine, "connect")
    def _connect(connection: SQLiteConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions are begun below, and by nobody else
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000:.0f}")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")
        # Not NORMAL: after a power cut the intent to start a job must still be there, or it might be started twice.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer says so at once: one that first reads and then writes could only fail when another wrote between.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _upgrade(engine: Engine) -> None:
    if _is_current(engine, _newest()):
        return  # without becoming a writer, who would wait for others
    config = _config()
    with _migrating, _explained(engine), engine.execution_options(**{_WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATING})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SchemaError(
                f"the tables in {_shown(engine)} are not this version's: {error}",
                hint="Was a newer version of this project at work there? Use that one.",
            ) from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "service.runs:migrations")
    return config


@functools.cache  # commands that follow a run open the database every few seconds
def _newest() -> str | None:
    """The revision that this version's tables are of."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _is_current(engine: Engine, head: str | None) -> bool:
    with _explained(engine), engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        return bool(connection.scalar(text("SELECT version_num FROM alembic_version")) == head)


@contextlib.contextmanager
def _explained(engine: Engine) -> Iterator[None]:
    """What the driver says, as an error that names the database."""
    try:
        yield
    except (OperationalError, PoolTimeoutError) as error:
        raise StoreError(
            f"the database at {_shown(engine)} does not answer: {_first_line(error)}.",
            hint="Is the server up, the address right, the disk not full?",
        ) from error


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _first_line(error: OperationalError | PoolTimeoutError) -> str:
    said = error.orig if isinstance(error, OperationalError) else error
    lines = str(said).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(said).__name__
