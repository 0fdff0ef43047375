"""Lists of runs: what is found, in which order, and that a page costs the same however many runs there are."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, text

from service.runs.database import Database
from service.runs.listing import CursorError, RunList
from service.runs.records import NewRun
from service.runs.schema import RunModel
from service.runs.states import Condition, Signal, State
from service.runs.store import RunStore
from service.runs.wanted import Wanted
from tests.service.runs.conftest import Clock


@pytest.fixture
def runs(database: Database) -> RunList:
    return RunList(database)


def fill(database: Database, clock: Clock, count: int) -> None:
    """Runs of four owners and three projects, three of them in each moment."""
    store = RunStore(database)
    for number in range(count):
        if number % 3 == 0:
            clock.pass_time(1)
        name = f"Photos_{number}" if number % 2 else f"birds-{number}"
        store.create(NewRun(f"r{number:03d}", name, "{}", f"h{number % 2}", "abcd"[number % 4], f"p{number % 3}"))


def ids(runs: RunList, **which: object) -> list[str]:
    return [run.id for run in runs.page(Wanted(**which)).runs]  # type: ignore[arg-type]


def test_the_newest_comes_first_and_pages_join_without_gap_or_repetition(
    database: Database, runs: RunList, clock: Clock
) -> None:
    fill(database, clock, 20)
    found, after, sizes = [], None, []
    while True:
        page = runs.page(after=after, limit=7)
        found += [run.id for run in page.runs]
        sizes.append(len(page.runs))
        if (after := page.next) is None:
            break
    assert sizes == [7, 7, 6]
    assert found == [f"r{number:03d}" for number in reversed(range(20))]


def test_a_last_page_that_is_full_says_so(database: Database, runs: RunList, clock: Clock) -> None:
    fill(database, clock, 6)
    assert runs.page(limit=6).next is None
    assert runs.page(limit=5).next is not None


def test_runs_that_come_meanwhile_neither_repeat_nor_hide_any(database: Database, runs: RunList, clock: Clock) -> None:
    fill(database, clock, 6)
    first = runs.page(limit=3)
    clock.pass_time(1)
    RunStore(database).create(NewRun("new", "new", "{}", "h", "ann"))
    second = runs.page(after=first.next, limit=3)
    assert [run.id for run in first.runs + second.runs] == ["r005", "r004", "r003", "r002", "r001", "r000"]


def test_filters_narrow_together(database: Database, runs: RunList, clock: Clock) -> None:
    fill(database, clock, 12)
    assert ids(runs, project="p0") == ["r009", "r006", "r003", "r000"]
    assert ids(runs, owner="b") == ["r009", "r005", "r001"]
    assert ids(runs, owner="b", project="p0") == ["r009"]
    assert ids(runs, owner="d", project="p2") == ["r011"]
    assert ids(runs, project="p7") == []


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos_*", ["r003", "r001"]),
        ("*-?", ["r002", "r000"]),
        ("birds-2", ["r002"]),
        ("birds", []),
        ("photos%", []),
        ("photos-1", []),  # `_` in a name is no wildcard, and `-` does not fit it
        ("*", ["r003", "r002", "r001", "r000"]),
    ],
)
def test_names_are_found_by_pattern(
    database: Database, runs: RunList, clock: Clock, pattern: str, found: list[str]
) -> None:
    fill(database, clock, 4)
    assert ids(runs, name=pattern) == found


def test_runs_are_found_by_state_and_by_condition(database: Database, runs: RunList, clock: Clock) -> None:
    fill(database, clock, 4)
    store = RunStore(database)
    store.move(store.get("r001"), Signal.BEGIN, words="Begun.", actor="x")
    store.set_condition("r001", Condition.UNREACHABLE, holds=True, words="Away.")
    store.stop("r002", actor="x", words="Enough.")
    assert ids(runs, states=[State.STARTING, State.CANCELLED]) == ["r002", "r001"]
    assert ids(runs, condition=Condition.UNREACHABLE) == ["r001"]
    assert ids(runs, condition=Condition.STALLED) == []
    assert [run.id for run in runs.unfinished()] == ["r000", "r001", "r003"]
    counts = runs.counts()
    assert {state: count for state, count in counts.items() if count} == {
        State.QUEUED: 2, State.STARTING: 1, State.CANCELLED: 1,
    }  # fmt: skip
    assert runs.counts(Wanted(owner="b"))[State.STARTING] == 1


def test_runs_and_sweeps_are_told_apart(database: Database, runs: RunList, clock: Clock) -> None:
    fill(database, clock, 2)
    clock.pass_time(1)
    RunStore(database).create(NewRun("s1", "temperatures", "{}", "h", "a", kind="sweep", storage="s3://lake/runs"))
    assert ids(runs) == ["s1", "r001", "r000"]
    assert ids(runs, kind="sweep") == ["s1"]
    assert ids(runs, kind="run") == ["r001", "r000"]
    assert runs.counts(Wanted(kind="sweep"))[State.QUEUED] == 1


def test_deleted_runs_are_in_no_list(database: Database, runs: RunList, clock: Clock) -> None:
    fill(database, clock, 3)
    store = RunStore(database)
    for run_id in ("r000", "r001"):
        store.stop(run_id, actor="x", words="Enough.")
    store.delete("r001", actor="x", words="Not needed.")
    assert ids(runs) == ["r002", "r000"]
    assert ids(runs, states=[State.CANCELLED]) == ["r000"]
    assert runs.counts()[State.CANCELLED] == 1
    assert [run.id for run in runs.unfinished()] == ["r002"]


@pytest.mark.parametrize("cursor", ["", "x", "bm9uc2Vuc2U=", "WzEsIDJd", "WyIyMDI2LTAxLTAxIiwgImEiXQ==", "ä"])
def test_a_cursor_that_no_page_gave_out_is_refused(runs: RunList, cursor: str) -> None:
    with pytest.raises(CursorError):
        runs.page(after=cursor)


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ("", "ix_runs_created_id"),
        ("AND state = 'running'", "ix_runs_state_created_id"),
        ("AND project = 'p1'", "ix_runs_project_created_id"),
        ("AND owner = 'ann'", "ix_runs_owner_created_id"),
        ("AND kind = 'sweep'", "ix_runs_kind_created_id"),
    ],
)
def test_a_page_of_ten_thousand_runs_is_read_from_an_index_in_its_order(
    database: Database, clock: Clock, where: str, index: str
) -> None:
    rows: list[dict[str, object]] = [
        {
            "id": f"r{number:05d}", "name": "n", "project": f"p{number % 20}", "owner": f"o{number % 20}", "spec": "",
            "spec_hash": "", "lineage": {}, "state": "running" if number % 50 == 1 else "succeeded", "reason": "",
            "attempts": 0, "version": 1, "created": clock.at, "updated": clock.at,
            "kind": "sweep" if number % 50 == 1 else "run", "deleted": None if number % 10 else clock.at,
        }
        for number in range(10_000)
    ]  # fmt: skip
    with database.writing() as session:
        session.execute(insert(RunModel), rows)
    with database.writing() as session:
        session.execute(text("ANALYZE"))
    explain = "EXPLAIN QUERY PLAN" if database.engine.dialect.name == "sqlite" else "EXPLAIN"
    query = f"{explain} SELECT * FROM runs WHERE deleted IS NULL {where} ORDER BY created DESC, id DESC LIMIT 51"
    with database.reading() as session:
        plan = "\n".join(str(row) for row in session.execute(text(query)))
    assert index in plan
    assert "TEMP B-TREE" not in plan
    assert "Seq Scan" not in plan
