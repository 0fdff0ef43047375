"""The leader as a process: started where there is none, working until nothing is left, never leaving a run alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import UserError
from service.backends.local_wrapper import start_ticks
from service.leader import LOG, ensure_leader, lead, served
from service.runs.database import Database, open_database
from service.runs.errors import StoreError
from service.runs.leadership import LEASE, Leadership, somebody_leads
from service.runs.leases import Lease, Leases
from service.runs.listing import RunList
from service.runs.records import NewRun, Run
from service.runs.retry import Cause
from service.runs.states import Condition, Signal, State
from service.runs.store import RunStore
from service.settings import Settings
from service.stack.layout import Layout
from service.stack.processes import Process
from service.stack.record import Recorder, StackRecord


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    return Settings.from_environment({"RECO_HOME": str(home)})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.database) as database:
        yield database


def store_run(database: Database, settings: Settings, run_id: str = "one") -> None:
    """A run whose spec cannot be read: the leader is done with it in one pass, without training anything."""
    RunStore(database).create(NewRun(run_id, "photos", "nothing: at all\n", "abc", "ann", storage=settings.storage))


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def holder(database: Database) -> Lease:
    lease = Leases(database).current(LEASE)
    assert lease is not None
    return lease


def pid_of(lease: Lease) -> int:
    return int(lease.holder.split("/")[2])


def test_a_leader_is_started_does_what_there_is_and_ends(database: Database, settings: Settings) -> None:
    store_run(database, settings)
    ensure_leader(settings)
    wait_for(lambda: RunStore(database).get("one").state.is_final)
    run = RunStore(database).get("one")
    assert (run.state, run.attempts) == (State.FAILED, 1)
    assert RunStore(database).attempts("one")[0].cause is Cause.USER_CODE
    wait_for(lambda: start_ticks(pid_of(holder(database))) is None)
    assert not somebody_leads(Leases(database), database.clock)
    assert pid_of(holder(database)) != os.getpid()
    assert "leads (number 1)" in (settings.home / LOG).read_text()


def test_no_leader_is_started_where_one_leads(database: Database, settings: Settings) -> None:
    leadership = Leadership(Leases(database), database.clock, seconds=60)
    assert leadership.take()
    ensure_leader(settings)
    assert not (settings.home / LOG).exists()
    assert holder(database).fence == 1


def test_no_leader_is_started_beside_a_stack_at_work(database: Database, settings: Settings) -> None:
    """One that a command started would hold the lease before the stack's own, and know nothing of its Ray head."""
    recorder = Recorder(Layout(settings.home).record, StackRecord())
    for phase in ("running", "stopping"):
        recorder.set(phase=phase, supervisor=Process.of(os.getpid()), told={"RECO_DATABASE": settings.database})
        ensure_leader(settings)
        assert not (settings.home / LOG).exists()
    assert served(settings)
    recorder.set(told={"RECO_DATABASE": "sqlite:////elsewhere.db"})
    assert not served(settings), "it works on another database"
    recorder.set(phase="down", told={})
    assert not served(settings)
    recorder.set(phase="running", supervisor=Process(pid=os.getpid(), ticks=1, boot="another"))
    assert not served(settings), "its supervisor is gone"
    store_run(database, settings)
    ensure_leader(settings)
    wait_for(lambda: RunStore(database).get("one").state.is_final)
    wait_for(lambda: start_ticks(pid_of(holder(database))) is None)


def test_a_leader_that_was_killed_is_replaced_at_once(database: Database, settings: Settings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "service.leader", "--interval", "0.1"],
        env={**os.environ, "RECO_HOME": str(settings.home)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: somebody_leads(Leases(database), database.clock))
    finally:
        process.kill()
        process.wait()
    assert holder(database).until > database.clock()
    assert not somebody_leads(Leases(database), database.clock)
    store_run(database, settings)
    ensure_leader(settings)
    wait_for(lambda: RunStore(database).get("one").state.is_final)
    wait_for(lambda: start_ticks(pid_of(holder(database))) is None)


def test_a_leader_that_is_told_to_end_lets_another_lead_at_once(database: Database, settings: Settings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "service.leader", "--interval", "60"],
        env={**os.environ, "RECO_HOME": str(settings.home)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: somebody_leads(Leases(database), database.clock))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert Leadership(Leases(database), database.clock, seconds=60).take()


@pytest.mark.parametrize(
    ("change", "leads"),
    [
        ({}, True),
        ({3: "1"}, False),  # its number is another process's by now
        ({2: "4194304"}, False),  # no process has that number
        ({1: "another machine"}, True),
        ({1: "another machine", 3: "1"}, True),
    ],
)
def test_only_a_process_of_this_machine_is_known_to_be_dead(
    database: Database, change: dict[int, str], leads: bool
) -> None:
    leases = Leases(database)
    assert Leadership(leases, database.clock, seconds=60).take()
    fields = holder(database).holder.split("/")
    name = "/".join(change.get(place, field) for place, field in enumerate(fields))
    leases.release(holder(database))
    assert leases.acquire(LEASE, name, seconds=60)
    assert somebody_leads(leases, database.clock) is leads
    assert Leadership(leases, database.clock, seconds=60).take() is not leads


def test_whoever_is_second_ends_where_another_leads(database: Database, settings: Settings) -> None:
    store_run(database, settings)
    assert Leadership(Leases(database), database.clock, seconds=60).take()
    lead(settings, database, threading.Event(), interval=0.01, until_idle=True)
    assert RunStore(database).get("one").state is State.QUEUED


def test_a_leader_goes_on_after_a_pass_that_an_error_of_a_moment_ended(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_run(database, settings)
    passes, unfinished = [0], RunList.unfinished

    def failing_once(self: RunList) -> list[Run]:
        passes[0] += 1
        if passes[0] == 1:
            raise StoreError("The database does not answer.")
        return unfinished(self)

    monkeypatch.setattr(RunList, "unfinished", failing_once)
    lead(settings, database, threading.Event(), interval=0.01, until_idle=True)
    assert RunStore(database).get("one").state is State.FAILED


def test_a_leader_whose_home_is_gone_ends_though_runs_have_not(database: Database, settings: Settings) -> None:
    store_run(database, settings)
    store = RunStore(database)
    store.move(store.get("one"), Signal.BEGIN, words="Begun.", actor="leader", backend="a cluster that is no more")
    stop = threading.Event()
    told = {"interval": 0.01, "until_idle": True}
    leader = threading.Thread(target=lead, args=(settings, database, stop), kwargs=told)
    leader.start()
    try:
        wait_for(lambda: Condition.UNREACHABLE in store.get("one").conditions)
        assert leader.is_alive()
        settings.home.rename(settings.home.with_name("elsewhere"))
        leader.join(30)
        assert not leader.is_alive()
    finally:
        stop.set()


def test_a_leader_that_could_not_start_is_told_to_whoever_wants_one(database: Database, settings: Settings) -> None:
    broken = replace(settings, backend="ray", ray_jobs="ray://head:10001")
    with pytest.raises(UserError, match="no address of a Ray job server"):
        ensure_leader(broken)
    assert not (settings.home / LOG).exists()


def test_the_leader_imports_nothing_that_trains_or_serves() -> None:
    code = "import sys, service.leader; print({'torch', 'ray', 'mlflow', 'fastapi', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
