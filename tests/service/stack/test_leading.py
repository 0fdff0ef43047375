"""The stack's leader beside leaders that commands have started: only its own may lead while it is up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.runs.database import Database, open_database
from service.runs.leadership import LEASE, local_leader
from service.runs.leases import Leases
from service.stack.environment import Places
from service.stack.layout import Layout
from service.stack.leading import Leader
from service.stack.processes import STACK, marked
from service.stack.record import Options
from tests.service.backends.places import until


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    for name in ("RECO_API", "RECO_STORAGE", "RECO_DATABASE", "RECO_BACKEND", "RECO_RAY_JOBS"):
        monkeypatch.delenv(name, raising=False)
    layout = Layout(tmp_path)
    layout.make(room=0)
    yield layout
    for process in marked(str(tmp_path)):
        process.kill()


@pytest.fixture
def database(layout: Layout) -> Iterator[Database]:
    with open_database(f"sqlite:///{layout.home}/service.db") as database:
        yield database


@pytest.fixture
def leader(layout: Layout, database: Database) -> Leader:
    return Leader(Places(layout, Options(ray=False), {}), lambda: database, needs=())


def number(database: Database) -> int | None:
    found = local_leader(Leases(database), database.clock)
    return None if found is None else found[0]


@contextmanager
def another(layout: Layout, database: Database, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A leader that leads, and is no part of the stack."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "service.leader", "--interval", "0.1"],
        env={**os.environ, "RECO_HOME": str(layout.home), **more},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: number(database) == process.pid)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_leader_of_a_command_makes_way_for_the_stacks_own(layout: Layout, database: Database, leader: Leader) -> None:
    with another(layout, database) as other:
        own = leader.start(threading.Event())
        assert own is not None
        assert other.wait(30) == 0, "it was asked, not killed"
        until(lambda: leader.trouble(own) is None)
        assert number(database) == own.pid
    leader.stop(own)
    assert not own.alive


def test_the_part_is_not_well_while_another_process_leads(layout: Layout, database: Database, leader: Leader) -> None:
    own = leader.start(threading.Event())
    assert own is not None
    until(lambda: leader.trouble(own) is None)
    lease = Leases(database).current(LEASE)
    assert lease is not None
    name = lease.holder.split("/")
    Leases(database).release(lease)
    assert Leases(database).acquire(LEASE, "/".join(["elsewhere", "machine", *name[2:]]), seconds=60)
    assert leader.trouble(own) == "another process leads"
    leader.stop(own)


def test_what_a_command_started_meanwhile_does_not_work_on_while_runs_save(
    layout: Layout, database: Database, leader: Leader
) -> None:
    with another(layout, database) as other:
        leader.stop(None)
        assert other.wait(30) == 0
    assert number(database) is None


def test_the_leader_of_another_stack_is_left_alone(layout: Layout, database: Database, leader: Leader) -> None:
    with another(layout, database, **{STACK: "/another/home"}) as other:
        leader.stop(None)
        assert other.poll() is None
        assert number(database) == other.pid
