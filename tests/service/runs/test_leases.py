"""Leases: one leader, whatever clocks and pauses do."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

import psycopg
import pytest

from service.runs.database import Database, open_database
from service.runs.errors import NotLeaderError
from service.runs.leases import Lease, Leases, check
from tests.service.runs.conftest import Clock
from tests.service.runs.racing import line_up, race


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


def take(leases: Leases, holder: str) -> Lease:
    lease = leases.acquire("leader", holder, seconds=10)
    assert lease is not None
    return lease


def test_a_lease_is_one_holders_until_it_ends(leases: Leases, clock: Clock) -> None:
    lease = take(leases, "a")
    assert lease == Lease("leader", "a", clock.at + timedelta(seconds=10), 1) == leases.current("leader")
    clock.pass_time(9.9)
    assert leases.acquire("leader", "b", seconds=10) is None
    clock.pass_time(0.1)
    assert take(leases, "b").fence == 2


def test_leases_of_different_names_have_nothing_to_do_with_each_other(leases: Leases) -> None:
    take(leases, "a")
    assert leases.acquire("janitor", "b", seconds=10) is not None
    assert leases.current("nobody's") is None


def test_renewing_keeps_the_number(leases: Leases, clock: Clock) -> None:
    lease = take(leases, "a")
    clock.pass_time(8)
    assert leases.renew(lease, seconds=10) == Lease("leader", "a", clock.at + timedelta(seconds=10), 1)
    assert take(leases, "a").fence == 1
    clock.pass_time(9)
    assert leases.acquire("leader", "b", seconds=10) is None


def test_a_lease_that_ended_can_be_renewed_only_while_nobody_took_it(leases: Leases, clock: Clock) -> None:
    lease = take(leases, "a")
    clock.pass_time(20)
    assert leases.renew(lease, seconds=10) is not None
    clock.pass_time(20)
    take(leases, "b")
    assert leases.renew(lease, seconds=10) is None
    assert leases.release(lease) is False


def test_a_lease_given_back_is_free_at_once_and_its_number_is_spent(database: Database, leases: Leases) -> None:
    lease = take(leases, "a")
    assert leases.release(lease)
    assert leases.renew(lease, seconds=10) is None
    with pytest.raises(NotLeaderError), database.writing() as session:
        check(session, lease)
    assert take(leases, "b").fence > lease.fence


def test_the_number_never_falls(leases: Leases, clock: Clock) -> None:
    fences = []
    for holder in "abacab":
        fences.append(take(leases, holder).fence)
        clock.pass_time(11)
    assert fences == [1, 2, 3, 4, 5, 6]


def test_a_holder_that_begins_anew_after_its_end_gets_a_new_number(leases: Leases, clock: Clock) -> None:
    assert take(leases, "a").fence == 1
    clock.pass_time(11)
    assert take(leases, "a").fence == 2


def test_only_the_newest_number_may_write(database: Database, leases: Leases, clock: Clock) -> None:
    old = take(leases, "a")
    with database.writing() as session:
        check(session, old)
    clock.pass_time(11)
    newest = take(leases, "b")
    with database.writing() as session:
        check(session, newest)
    with pytest.raises(NotLeaderError, match="its number is 1, the newest 2"), database.writing() as session:
        check(session, old)


def test_a_lease_cannot_change_hands_before_what_was_checked_is_written(
    database: Database, leases: Leases, clock: Clock
) -> None:
    lease = take(leases, "a")
    is_sqlite = database.engine.dialect.name == "sqlite"
    take_it = "BEGIN IMMEDIATE" if is_sqlite else "SELECT * FROM leases FOR UPDATE NOWAIT"
    other = database.engine.raw_connection()
    try:
        cursor = other.cursor()
        if is_sqlite:
            cursor.execute("PRAGMA busy_timeout = 0")
        with database.writing() as session:
            check(session, lease)
            with pytest.raises((sqlite3.OperationalError, psycopg.errors.LockNotAvailable)):
                cursor.execute(take_it)
    finally:
        other.invalidate()


_ROUNDS = 15


def _acquire(given: tuple[str, datetime, str]) -> list[int | None]:
    url, at, holder = given
    clock = Clock(at)
    fences = []
    with open_database(url, clock=clock) as database:
        for _ in range(_ROUNDS):
            line_up()
            lease = Leases(database).acquire("leader", holder, seconds=10)
            fences.append(None if lease is None else lease.fence)
            clock.pass_time(11)
    return fences


def test_of_four_processes_that_want_to_lead_one_does(url: str, leases: Leases, clock: Clock) -> None:
    taken = race(_acquire, [(url, clock.at, holder) for holder in "abcd"])
    for number, fences in enumerate(zip(*taken, strict=True)):
        assert [fence for fence in fences if fence is not None] == [number + 1]
    newest = leases.current("leader")
    assert newest is not None
    assert newest.holder == "abcd"[[fences[-1] for fences in taken].index(newest.fence)]
