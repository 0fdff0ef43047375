"""Sweeps in the store: how far one is comes from its ledger, and the leader looks after it as after any run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.checkpoints.fence import Fence
from jobs.spec import Sweep, parse_spec, parse_sweep
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Event, Ledger
from service.backends.base import Job
from service.runs.database import Database, open_database
from service.runs.leases import Leases
from service.runs.listing import RunList
from service.runs.reconciler import Patience, Reconciler
from service.runs.records import NewRun, Run
from service.runs.retry import Cause
from service.runs.states import State
from service.runs.store import RunStore
from service.runs.sweep_progress import SweepProgress
from tests.pictures import tiny_spec
from tests.service.runs.conftest import Clock
from tests.service.runs.scripted import Fuse, Life, ScriptedBackend

SPEC = "name: temperatures\nbase: base.yaml\ntrials: 3\n"
BEGUN: list[Event] = [{"event": "trial", "trial": number, "values": {"method.temperature": 0.1}} for number in range(3)]


def sweep_of(mode: str = "max") -> Sweep:
    base = parse_spec(tiny_spec(Path("x"), probe=Path("y"), train__epochs=9))
    return parse_sweep(f"{SPEC}objective: {{mode: {mode}}}\n", base)


def write(folder: SweepFolder, *events: Event) -> None:
    """Go on with the ledger as the next attempt would."""
    ledger = Ledger(folder.storage, Fence.take(folder.storage))
    ledger.events()
    for event in events:
        ledger.append(event)


def ended(trial: int, objective: float | None) -> Event:
    status = "failed" if objective is None else "finished"
    return {"event": "end", "trial": trial, "status": status, "objective": objective, "epoch": 9}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(f"{tmp_path}/runs", "s1")


def test_a_sweep_that_has_not_begun_has_said_nothing(folder: SweepFolder) -> None:
    progress = SweepProgress(folder)
    assert progress.read() is None
    folder.claim(sweep_of())
    assert progress.read() == {"phase": "searching", "step": 0, "total_steps": 3}


@pytest.mark.parametrize(("mode", "best"), [("max", 42.0), ("min", 39.0)])
def test_a_step_is_a_trial_that_has_ended_and_its_metric_the_best_of_them(
    folder: SweepFolder, mode: str, best: float
) -> None:
    folder.claim(sweep_of(mode))
    progress = SweepProgress(folder)
    write(folder, *BEGUN)
    assert progress.read() == {"phase": "searching", "step": 0, "total_steps": 3}
    write(folder, ended(0, 39.0), ended(2, 42.0))
    metric = sweep_of().metric
    assert progress.read() == {"phase": "searching", "step": 2, "total_steps": 3, "metrics": {metric: best}}
    write(folder, ended(1, None))
    assert progress.read() == {"phase": "searching", "step": 3, "total_steps": 3, "metrics": {metric: best}}


def test_a_sweep_that_trains_its_best_says_how_far_that_is(folder: SweepFolder) -> None:
    folder.claim(sweep_of())
    progress = SweepProgress(folder)
    write(folder, *BEGUN, *(ended(number, 40.0) for number in range(2)))
    folder.full_run().write_progress({"phase": "training", "step": 7, "total_steps": 90})
    assert (progress.read() or {}).get("phase") == "searching"
    write(folder, ended(2, 40.0))
    assert progress.read() == {"phase": "training the best", "step": 7, "total_steps": 90}
    assert progress.ended == 3


class World:
    """A sweep that is stored, and its leader."""

    def __init__(self, database: Database, clock: Clock, folder: SweepFolder, *lives: Life) -> None:
        self.clock, self.folder = clock, folder
        self.store = RunStore(database)
        self.store.create(NewRun("s1", "temperatures", SPEC, "abc", "ann", kind="sweep", storage=folder.parent))

        def life(submission: str) -> Life:
            return lives[int(submission.rsplit("-a", 1)[1]) - 1]

        self.backend = ScriptedBackend(clock, lambda _: folder, life, Fuse())
        listed, leases, backends = RunList(database), Leases(database), {"scripted": self.backend}
        self.leader = Reconciler(
            self.store,
            listed,
            leases,
            backends,
            lambda *_: Job(["sweep"]),
            lambda _: folder,
            clock,
            patience=Patience(),
        )

    def go_on(self, passes: int, *, every: float = 10) -> Run:
        for _ in range(passes):
            self.leader.tick()
            self.clock.pass_time(every)
            self.backend.advance()
        return self.store.get("s1")

    def until(self, *states: State) -> Run:
        for _ in range(600):
            if (run := self.go_on(1)).state in states:
                return run
        raise AssertionError(self.store.get("s1"))


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    with open_database(f"sqlite:///{tmp_path}/runs.db", clock=clock) as database:
        yield database


def test_a_sweep_is_started_watched_and_done(database: Database, clock: Clock, folder: SweepFolder) -> None:
    world = World(database, clock, folder, Life(running_s=100))
    world.until(State.RUNNING)
    folder.claim(sweep_of())
    write(folder, *BEGUN, ended(0, 39.0))
    world.leader.tick()
    [(_, told)] = world.store.progress_of(["s1"]).values()
    assert (told["phase"], told["step"], told["total_steps"]) == ("searching", 1, 3)
    assert world.until(State.SUCCEEDED).attempts == 1


def test_a_sweep_is_never_called_stalled(database: Database, clock: Clock, folder: SweepFolder) -> None:
    world = World(database, clock, folder, Life(running_s=1e9))
    world.until(State.RUNNING)
    folder.claim(sweep_of())
    run = world.go_on(30, every=3600)
    assert (run.state, run.conditions) == (State.RUNNING, {})


def test_trials_that_ended_give_budgets_back(database: Database, clock: Clock, folder: SweepFolder) -> None:
    broken = Life(outcome=None, exit_code=1)
    world = World(database, clock, folder, broken, broken, broken)
    world.until(State.RUNNING)
    folder.claim(sweep_of())
    world.until(State.RECOVERING)
    world.until(State.RUNNING)
    write(folder, *BEGUN, ended(0, 39.0))
    assert world.until(State.RECOVERING).attempts == 2  # a second time, unexplained: but it got somewhere
    world.until(State.STARTING)
    assert world.until(State.RECOVERING, State.FAILED).state is State.FAILED
    assert [attempt.step for attempt in world.store.attempts("s1")] == [0, 1, 1]


def test_a_sweep_whose_budget_is_used_up_is_not_tried_again(
    database: Database, clock: Clock, folder: SweepFolder
) -> None:
    used_up = Life(outcome={"status": "stopped", "exit_code": 130, "reason": "budget.wall_time 2h is used up"})
    world = World(database, clock, folder, used_up)
    run = world.until(State.FAILED, State.RECOVERING)
    assert (run.state, world.store.attempts("s1")[0].cause) == (State.FAILED, Cause.USER_CODE)
    assert "budget.wall_time 2h is used up" in run.reason


def test_a_sweep_that_is_to_stop_saves_by_itself(database: Database, clock: Clock, folder: SweepFolder) -> None:
    world = World(database, clock, folder, Life(running_s=1e9))
    world.until(State.RUNNING)
    world.store.stop("s1", actor="ann", words="Enough.")
    assert world.until(State.CANCELLED).attempts == 1
    assert world.backend.stops == []
