"""Runs that save before a stack goes down: with jobs of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.backends.base import Job
from service.backends.local import LocalBackend
from service.backends.ray_jobs import RayJobsBackend
from service.runs.database import Database, open_database
from service.runs.listing import RunList
from service.runs.records import NewRun
from service.runs.states import Signal, State
from service.runs.store import RunStore
from service.stack.saving import save_runs
from tests.s3 import free_port
from tests.service.backends.places import until

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path({0!r}).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
pathlib.Path({1!r}).touch()
time.sleep(600)
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:///{tmp_path}/service.db") as database:
        yield database


def running(store: RunStore, run_id: str, backend: str) -> str:
    """A run in the store whose first attempt is under way; returns its submission."""
    new = NewRun(id=run_id, name=run_id, spec="", spec_hash="", owner="ann", storage="/none")
    run = store.move(store.create(new), Signal.BEGIN, words="Begun.", actor="leader", backend=backend)
    store.move(run, Signal.RUNNING, words="Runs.", actor="leader")
    return store.attempts(run_id)[0].submission_id


def test_jobs_save_and_end_while_the_store_still_says_that_their_runs_go_on(database: Database, tmp_path: Path) -> None:
    store, backend, told = RunStore(database), LocalBackend(tmp_path / "jobs"), list[str]()
    submission = running(store, "one", "local")
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    backend.submit(submission, Job([sys.executable, "-c", SAVES.format(str(saved), str(ready))]))
    until(ready.exists)
    left = save_runs(store, RunList(database), {"local": backend}, say=told.append, within_s=60, sleep=lambda _: None)
    assert left == []
    assert saved.read_text() == "saved"
    assert backend.look(submission).status == "stopped"
    assert store.get("one").state is State.RUNNING
    assert told[-1] == ""


def test_a_run_that_does_not_save_in_time_or_whose_backend_is_gone_is_named(database: Database, tmp_path: Path) -> None:
    store = RunStore(database)
    backends = {"local": LocalBackend(tmp_path / "jobs"), "ray": RayJobsBackend(f"http://127.0.0.1:{free_port()}")}
    ready = tmp_path / "ready"
    deaf = f"trap '' TERM; touch {ready}; while true; do sleep 0.1; done"
    submission = running(store, "deaf", "local")
    running(store, "lost", "ray")
    backends["local"].submit(submission, Job(["sh", "-c", deaf]))
    until(ready.exists)
    try:
        left = save_runs(store, RunList(database), backends, say=lambda _: None, within_s=0.2)
        assert sorted(left) == ["deaf", "lost"]
    finally:
        LocalBackend(tmp_path / "jobs", grace_s=0).stop(submission)
        ready.unlink()
