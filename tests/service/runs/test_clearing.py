"""What is kept of old jobs: it goes once it is old and its log is safe, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.run_folder import RunFolder
from service.backends.base import Job
from service.backends.local import LocalBackend
from service.runs.clearing import Clearing
from service.runs.database import Database, open_database
from service.runs.idempotency import Replies
from service.runs.logs import RunLog
from service.runs.records import Ending, NewRun, Run
from service.runs.retry import Cause
from service.runs.states import Signal
from service.runs.store import RunStore
from tests.service.backends.places import end_of
from tests.service.runs.conftest import Clock

DAY = 86_400.0


@dataclass
class World:
    """A store, and jobs on this machine."""

    store: RunStore
    backend: LocalBackend
    root: Path
    clock: Clock
    clearing: Clearing

    def folder(self, run: Run) -> RunFolder:
        return RunFolder(f"{self.root}/runs", run.id)

    def ended(self, run_id: str, *, backend: str = "local", place: str | None = None, logged: bool = True) -> None:
        """A run that has failed, and whose job has ended."""
        run = self.store.create(NewRun(run_id, "photos", "{}", "abc", "ann"))
        run = self.store.move(run, Signal.BEGIN, words="Begun.", actor="leader", backend=backend, place=place)
        self.run_job(f"{run_id}-a1")
        self.store.move(run, Signal.FAILED, words="Failed.", actor="leader", ending=Ending(Cause.NAN))
        if logged:
            RunLog(self.folder(run).storage, 1).complete()

    def run_job(self, submission: str) -> None:
        self.backend.submit(submission, Job(["true"]))
        end_of(self.backend, submission)


@pytest.fixture
def world(tmp_path: Path, clock: Clock) -> Iterator[World]:
    with open_database(f"sqlite:///{tmp_path}/runs.db", clock=clock) as database:
        yield make(database, clock, tmp_path)


def make(database: Database, clock: Clock, root: Path) -> World:
    store, backend = RunStore(database), LocalBackend(root / "jobs")
    clearing = Clearing(store, [backend], lambda run: RunFolder(f"{root}/runs", run.id), clock)
    return World(store, backend, root, clock, clearing)


def test_a_job_is_forgotten_a_week_after_its_attempt_has_ended(world: World) -> None:
    world.ended("one")
    world.clock.pass_time(6.9 * DAY)
    world.clearing.clear()
    assert world.backend.kept() == ["one-a1"]
    world.clock.pass_time(0.2 * DAY)
    world.ended("two")
    world.clearing.clear()
    assert world.backend.kept() == ["two-a1"]


def test_a_log_that_is_nowhere_else_is_kept(world: World) -> None:
    world.ended("one", logged=False)
    world.clock.pass_time(30 * DAY)
    world.clearing.clear()
    assert world.backend.kept() == ["one-a1"]
    world.store.delete("one", actor="ann", words="Not needed.")
    world.clock.pass_time(DAY)
    world.clearing.clear()
    assert world.backend.kept() == []


def test_jobs_of_others_are_left_alone(world: World) -> None:
    world.run_job("stranger-a1")  # of another store, or started by hand
    world.ended("elsewhere", backend="ray")  # only the name is the same
    world.ended("another-folder", place="local:/another/home/jobs")
    world.clock.pass_time(30 * DAY)
    world.clearing.clear()
    assert world.backend.kept() == ["another-folder-a1", "elsewhere-a1", "stranger-a1"]


def test_a_backend_that_is_away_is_left_for_later(world: World) -> None:
    world.ended("one")
    world.clock.pass_time(8 * DAY)
    jobs, away = world.root / "jobs", world.root / "away"
    jobs.rename(away)
    world.clearing.clear()
    away.rename(jobs)
    world.clock.pass_time(3599)
    world.clearing.clear()  # once an hour is enough
    assert world.backend.kept() == ["one-a1"]
    world.clock.pass_time(1)
    world.clearing.clear()
    assert world.backend.kept() == []


def test_answers_to_clients_are_forgotten_once_nobody_asks_again(world: World, tmp_path: Path, clock: Clock) -> None:
    with open_database(f"sqlite:///{tmp_path}/runs.db", clock=clock) as database:
        replies = Replies(database)
        clearing = Clearing(world.store, [], world.folder, clock, replies)
        replies.once(project="p", key="old", request=b"r", act=lambda _: {"run": 1})
        clock.pass_time(5 * DAY)
        replies.once(project="p", key="new", request=b"r", act=lambda _: {"run": 2})
        clearing.clear()
        assert replies.once(project="p", key="old", request=b"r", act=lambda _: {}).repeated
        clock.pass_time(3 * DAY)
        clearing.clear()
        assert not replies.once(project="p", key="old", request=b"r", act=lambda _: {"run": 3}).repeated
        assert replies.once(project="p", key="new", request=b"r", act=lambda _: {}).repeated
