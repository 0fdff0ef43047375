"""Opening a database: whatever it was before, it has this version's tables afterwards, or says why not."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from service.runs import database as module
from service.runs.database import Database, open_database, upgrade
from service.runs.errors import SchemaError, StoreError
from service.runs.listing import RunList
from service.runs.records import NewRun
from service.runs.schema import Base
from service.runs.states import State
from service.runs.store import RunStore
from tests.service.runs.conftest import Clock
from tests.service.runs.racing import line_up, race


def test_migrations_make_exactly_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_opening_again_keeps_what_is_there(url: str) -> None:
    with open_database(url) as database:
        RunStore(database).create(NewRun("one", "one", "{}", "0", "ann"))
    upgrade(url)
    with open_database(url) as database:
        assert RunStore(database).get("one").name == "one"


def _tables_of(url: str, revision: str) -> Engine:
    """A database as an earlier version of this project left it."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg") if "postgresql" in url else url)
    config = Config()
    config.set_main_option("script_location", "service.runs:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def test_runs_of_the_first_version_are_there_in_the_newest(url: str, clock: Clock) -> None:
    engine = _tables_of(url, "0001")
    run = (
        "INSERT INTO runs (id, name, project, owner, spec, spec_hash, lineage, state, reason, attempts, version,"
        " created, updated)"
        " VALUES ('old', 'photos', 'birds', 'ann', 'name: photos', 'abc', '{}', 'failed', 'Lost.', 1, 1,"
        " '2026-03-01 10:00:00+00:00', '2026-03-01 11:00:00+00:00')"
    )
    attempt = (
        "INSERT INTO attempts (run_id, number, submission_id, backend, state, started, ended)"
        " VALUES ('old', 1, 'old-a1', 'ray', 'failed', '2026-03-01 10:00:00+00:00', '2026-03-01 11:00:00+00:00')"
    )
    event = (
        "INSERT INTO events (run_id, number, at, kind, words, data)"
        " VALUES ('old', 1, '2026-03-01 10:00:00+00:00', 'created', 'Stored.', '{}')"
    )
    with engine.begin() as connection:
        for statement in (run, attempt, event):
            connection.execute(text(statement))
    engine.dispose()
    with open_database(url, clock=clock) as database:
        store = RunStore(database)
        old = store.get("old")
        assert (old.kind, old.storage, old.budget_from, old.deleted) == ("run", "", 0, None)
        assert [each.id for each in RunList(database).page().runs] == ["old"]
        assert [each.kind for each in store.events("old")] == ["created"]
        assert store.progress_of(["old"]) == {}
        again = store.resume("old", actor="ann", words="Again.")
        assert (again.state, again.attempts, again.budget_from) == (State.QUEUED, 1, 1)
        first = store.attempts("old")[0]
        assert first.ended == datetime(2026, 3, 1, 11, tzinfo=UTC)
        assert first.place is None
        assert first.is_at("ray:http://any:8265")


def _upgrade(url: str) -> None:
    line_up()
    upgrade(url)


def test_four_processes_may_open_a_new_database_at_once(url: str) -> None:
    race(_upgrade, [url] * 4)
    with open_database(url) as database:
        assert {"runs", "attempts", "events", "leases"} <= set(inspect(database.engine).get_table_names())


def test_threads_of_one_process_may_open_databases_of_their_own_at_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upgrade, urls))
    for url in urls:
        with open_database(url) as database:
            assert "runs" in inspect(database.engine).get_table_names()


def test_a_database_that_is_up_to_date_is_opened_while_somebody_writes(url: str, database: Database) -> None:
    with database.writing() as session:
        RunStore(database).create_in(session, NewRun("one", "one", "{}", "0", "ann"))
        with open_database(url) as other, other.reading() as reading:
            assert reading.scalar(text("SELECT count(*) FROM runs")) == 0


def test_tables_of_a_newer_version_are_left_alone(url: str) -> None:
    with open_database(url) as database, database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="newer version"):
        open_database(url)


@pytest.mark.parametrize("table", ["events", "audit"])
@pytest.mark.parametrize("change", ["UPDATE {} SET data = '{{}}'", "DELETE FROM {}"])
def test_what_happened_cannot_be_changed_or_deleted(database: Database, table: str, change: str) -> None:
    RunStore(database).create(NewRun("one", "one", "{}", "0", "ann"))
    with database.writing() as session:
        session.execute(
            text("INSERT INTO audit (at, actor, action, target, data) VALUES (:at, 'ann', 'look', 'one', '{}')"),
            {"at": "2026-03-01 12:00:00"},
        )
    with pytest.raises(DBAPIError, match=f"{table} can only be added to"), database.writing() as session:
        session.execute(text(change.format(table)))


def test_what_fails_half_way_leaves_nothing(database: Database) -> None:
    def half_way() -> None:
        with database.writing() as session:
            RunStore(database).create_in(session, NewRun("one", "one", "{}", "0", "ann"))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        half_way()
    with database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM runs")) == 0


def test_sqlite_waits_for_other_writers_keeps_readers_going_and_checks_references(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path}/new/runs.db") as database, database.engine.connect() as connection:
        answers = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        }
    assert answers == {"journal_mode": "wal", "busy_timeout": 30000, "foreign_keys": 1, "synchronous": 2}


def test_a_sqlite_file_is_nobody_elses_to_read(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path}/runs.db") as database:
        RunStore(database).create(NewRun("one", "one", "{}", "0", "ann"))
        assert {file.name: file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {
            "runs.db": 0, "runs.db-wal": 0, "runs.db-shm": 0,
        }  # fmt: skip


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"runs cannot be kept in .*/file/runs\.db"):
        open_database(f"sqlite:///{tmp_path}/file/runs.db")


def test_readers_go_on_while_somebody_writes(database: Database) -> None:
    store = RunStore(database)
    store.create(NewRun("one", "one", "{}", "0", "ann"))
    with database.writing() as session:
        store.create_in(session, NewRun("two", "two", "{}", "0", "ann"))
        assert store.get("one").id == "one"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "in memory"),
        ("mysql://somebody@somewhere/runs", "mysql"),
        ("runs.db", "cannot be read"),
    ],
)
def test_a_url_that_no_store_can_have_is_explained(url: str, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        open_database(url)


def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not answer") as caught:
        open_database(f"postgresql://reco:secret@/runs?host={tmp_path}")
    assert str(tmp_path) in str(caught.value).replace("%2F", "/")
    assert "secret" not in str(caught.value)


def test_each_thread_of_an_api_gets_a_connection_and_one_more_is_told_that_there_is_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    with contextlib.ExitStack() as open_sessions:
        for _ in range(40):
            open_sessions.enter_context(database.reading()).execute(text("SELECT 1"))
        with pytest.raises(StoreError, match="does not answer"), database.reading() as session:
            session.execute(text("SELECT 1"))


def test_a_server_that_takes_connections_and_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT_S", 2)  # the least that the driver knows
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreError, match="does not answer"):
            open_database(f"postgresql://ann@127.0.0.1:{port}/runs")
    assert time.monotonic() - began < 30.0
