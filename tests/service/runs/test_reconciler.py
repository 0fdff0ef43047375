"""The leader, against a real store and real folders, with jobs that live as the test says."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.job_folder import SUBMISSION_VARIABLE, Outcome, error_of, failed
from jobs.run_folder import RunFolder
from jobs.storage import AccessDeniedError, AddressError, BucketError, CredentialsError, StorageError
from service.backends.base import Answer, BackendError, Job, Status
from service.backends.local import LocalBackend
from service.runs.database import Database, open_database
from service.runs.decision import AskFolder, SetCondition, decide
from service.runs.evidence import FolderEvidence, Seen
from service.runs.leadership import LEASE, somebody_leads
from service.runs.leases import Lease, Leases
from service.runs.listing import RunList
from service.runs.logs import RunLog
from service.runs.pace import Pace
from service.runs.reconciler import Patience, Reconciler
from service.runs.records import Attempt, NewRun, Run
from service.runs.retry import Cause
from service.runs.states import AttemptState, Condition, State
from service.runs.store import RunStore
from tests.service.runs.conftest import Clock
from tests.service.runs.scripted import (
    FAILED,
    SUCCEEDED,
    Fuse,
    FusedStorage,
    FusedStore,
    KilledError,
    Life,
    ScriptedBackend,
)

PATIENCE = Patience(lease_s=60.0, grace_s=120.0)
SIGTERMED: Outcome = {"status": "stopped", "exit_code": 130}
NAN: Outcome = {"status": "failed", "exit_code": 1, "error": "Step 7.", "hint": "", "kind": "DivergedError"}
ENDLESS = 1e9
JOB = """
import json, os, sys
from jobs.run_folder import RunFolder
folder = RunFolder(sys.argv[1], sys.argv[2])
folder.begin_attempt()
outcome = json.loads(sys.argv[3])
print(os.environ["RECO_SUBMISSION_ID"], outcome["status"])
folder.write_outcome(outcome)
sys.exit(outcome["exit_code"])
"""
_names = itertools.count()


class World:
    """A run, its folder, its backend, and whoever leads."""

    def __init__(self, database: Database, clock: Clock, root: Path, *lives: Life, fuse: Fuse | None = None) -> None:
        self.database, self.clock, self.root = database, clock, root
        self.fuse = fuse or Fuse()
        self.lives = lives or (Life(),)
        self.id = f"run-{next(_names)}"
        clock.pass_time(100_000)  # what was before is no leader's business any more
        self.store = FusedStore(database)
        self.store.fuse = Fuse()
        self.store.create(NewRun(self.id, "photos", "name: photos\n", "abc", "ann"))
        self.backend = ScriptedBackend(clock, lambda _: RunFolder(str(root), self.id), self.life, self.fuse)
        self.storage_reachable = True
        self.leader = self.new_leader()

    def life(self, submission: str) -> Life:
        number = int(submission.rsplit("-a", 1)[1])
        return self.lives[min(number, len(self.lives)) - 1]

    def new_leader(
        self, command: Callable[[Run, Attempt], Job] | None = None, *, leases: Leases | None = None
    ) -> Reconciler:
        store = FusedStore(self.database)
        store.fuse = self.fuse
        return Reconciler(
            store,
            RunList(self.database),
            leases or Leases(self.database),
            {"scripted": self.backend},
            command or (lambda run, attempt: Job(["train", run.id])),
            self.folder,
            self.clock,
            patience=PATIENCE,
        )

    def folder(self, run: Run) -> RunFolder:
        folder = RunFolder(str(self.root), run.id)
        storage = FusedStorage(Path(folder.url), self.fuse)
        storage.reachable = self.storage_reachable
        folder.storage = storage
        return folder

    @property
    def run(self) -> Run:
        return self.store.get(self.id)

    @property
    def attempts(self) -> list[Attempt]:
        return self.store.attempts(self.id)

    @property
    def own(self) -> RunFolder:
        return RunFolder(str(self.root), self.id)

    def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.backend.advance()

    def go_on(self, seconds: float, *, every: float = 10.0) -> None:
        for _ in range(int(seconds / every)):
            self.leader.tick()
            self.pass_time(every)
        self.leader.tick()

    def until(self, *states: State, most: int = 400) -> Run:
        for _ in range(most):
            self.leader.tick()
            if self.run.state in states:
                return self.run
            self.pass_time(10)
        raise AssertionError(f"still {self.run.state}: {self.run.reason}")

    def words(self) -> list[str]:
        return [event.words for event in self.store.events(self.id)]


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    with open_database(f"sqlite:///{tmp_path}/runs.db", clock=clock) as database:
        yield database


@pytest.fixture
def make(database: Database, clock: Clock, tmp_path: Path) -> Callable[..., World]:
    return lambda *lives, **more: World(database, clock, tmp_path / "runs", *lives, **more)


Make = Callable[..., World]


def test_a_run_is_begun_submitted_watched_and_done(make: Make) -> None:
    world = make()
    assert world.until(State.SUCCEEDED).attempts == 1
    kinds = [event.kind for event in world.store.events(world.id)]
    assert kinds == ["created", "begin", "accepted", "running", "succeeded"]
    job = world.backend.jobs[f"{world.id}-a1"].job
    assert job.command == ["train", world.id]
    assert job.environment[SUBMISSION_VARIABLE] == f"{world.id}-a1"


def test_ten_minutes_without_an_answer_change_nothing(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    before = world.run
    world.backend.reachable = False
    world.go_on(600)
    away = world.run
    assert (away.state, away.attempts, world.backend.starts) == (State.RUNNING, 1, [f"{world.id}-a1"])
    assert set(away.conditions) == {Condition.UNREACHABLE}
    assert away.version == before.version + 1  # said once
    world.backend.reachable = True
    world.leader.tick()
    assert (world.run.state, world.run.conditions) == (State.RUNNING, {})
    assert world.words()[-2:] == [
        "The backend does not answer: nobody answers at scripted.", "The backend answers again.",
    ]  # fmt: skip


def test_a_result_in_the_folder_counts_while_the_backend_is_away(make: Make) -> None:
    world = make()
    world.until(State.RUNNING)
    world.backend.reachable = False
    assert world.until(State.SUCCEEDED).conditions == {}


def test_a_submission_that_was_not_answered_is_not_repeated_as_another(make: Make) -> None:
    world = make()
    world.backend.reachable = False
    world.go_on(600)
    assert (world.run.state, world.run.attempts, world.backend.starts) == (State.STARTING, 1, [])
    world.backend.reachable = True
    assert world.until(State.SUCCEEDED).attempts == 1
    assert world.backend.starts == [f"{world.id}-a1"]


def test_a_silent_backend_is_asked_once_a_pass(make: Make, database: Database) -> None:
    worlds = [make(Life(running_s=ENDLESS)) for _ in range(3)]
    leader = worlds[0]
    for each in worlds[1:]:
        each.backend = leader.backend
    leader.until(State.RUNNING)
    leader.backend.reachable = False
    looks = leader.backend.looks
    leader.leader.tick()
    assert leader.backend.looks == looks + 1
    assert all(Condition.UNREACHABLE in each.run.conditions for each in worlds)


def test_a_backend_that_takes_no_more_jobs_still_answers_of_those_it_has(make: Make) -> None:
    waiting, running = make(), make(Life(running_s=ENDLESS))
    waiting.backend = running.backend
    waiting.store.stop(waiting.id, actor="ann", words="Later.")
    running.until(State.RUNNING)
    waiting.store.resume(waiting.id, actor="ann", words="Now.")
    running.backend.full = True
    running.leader.tick()
    running.leader.tick()
    assert (waiting.run.state, set(waiting.run.conditions)) == (State.STARTING, {Condition.UNREACHABLE})
    assert running.run.conditions == {}


def test_a_backend_that_answers_and_takes_no_jobs_is_said_to_be_away_once(make: Make) -> None:
    world = make()
    world.backend.full = True
    world.go_on(600)
    conditions = [event for event in world.store.events(world.id) if event.kind == "condition"]
    assert [event.data["holds"] for event in conditions] == [True]
    world.backend.full = False
    world.leader.tick()
    assert (world.run.state, dict(world.run.conditions)) == (State.STARTING, {})
    assert [event.words for event in world.store.events(world.id)][-2:] == [
        "The backend took its job.", "The backend answers again.",
    ]  # fmt: skip


def test_a_storage_that_is_away_is_not_an_empty_folder(make: Make) -> None:
    world = make()
    world.until(State.RUNNING)
    world.storage_reachable = False
    world.go_on(600)
    assert world.backend.jobs[f"{world.id}-a1"].status == "succeeded"
    assert (world.run.state, world.run.attempts) == (State.RUNNING, 1)
    world.storage_reachable = True
    world.leader.tick()
    assert world.run.state is State.SUCCEEDED


def test_a_job_that_the_backend_forgot_has_lost_its_host(make: Make) -> None:
    world = make(Life(outcome=None, vanishes=True, step=50), Life())
    run = world.until(State.RECOVERING)
    assert run.due == world.clock.at + timedelta(seconds=15)
    [attempt] = world.attempts
    assert (attempt.state, attempt.cause, attempt.step) == (AttemptState.FAILED, Cause.NODE_LOST, 50)
    assert world.until(State.SUCCEEDED).attempts == 2


def test_another_cluster_that_has_no_such_job_is_not_believed(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    assert world.attempts[0].place == "scripted:here"
    there, world.backend.jobs = world.backend.jobs, {}
    world.backend.where = "scripted:there"
    world.go_on(600)
    assert (world.run.state, world.run.attempts) == (State.RUNNING, 1)
    assert Condition.UNREACHABLE in world.run.conditions
    said = next(words for words in world.words() if "does not answer" in words)
    assert "the job is at scripted:here, and this service asks scripted:there" in said
    assert "RECO_BACKEND_PLACE=scripted:here" in said
    world.backend.where, world.backend.jobs = "scripted:here", there
    world.leader.tick()
    assert (world.run.state, dict(world.run.conditions)) == (State.RUNNING, {})
    assert world.backend.starts == [f"{world.id}-a1"]


def test_a_job_elsewhere_keeps_no_other_from_its_backend(make: Make, clock: Clock) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    world.backend.where = "scripted:there"
    world.store.create(NewRun("zz-second", "photos", "name: photos\n", "abc", "ann"))
    world.go_on(60)
    assert world.store.get("zz-second").state is State.RUNNING
    assert world.store.attempts("zz-second")[0].place == "scripted:there"


def test_a_job_that_the_backend_forgot_may_have_left_its_results(make: Make) -> None:
    world = make(Life(vanishes=True))
    assert world.until(State.SUCCEEDED, State.RECOVERING).state is State.SUCCEEDED


def test_what_another_attempt_left_says_nothing_of_this_one(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    for submission in ("", f"{world.id}-a7"):
        world.own.write_outcome({**SUCCEEDED, "submission": submission})
        world.leader.tick()
        world.leader.tick()
        assert world.run.state is State.STARTING


def test_an_interruption_that_nobody_asked_for_is_gone_on_from(make: Make) -> None:
    world = make(Life(outcome=SIGTERMED, step=10), Life(outcome=None, exit_code=-15, step=10), Life())
    world.until(State.RECOVERING)
    assert world.attempts[0].cause is Cause.PREEMPTED
    assert world.run.due == world.clock.at + timedelta(seconds=10)
    world.until(State.STARTING)
    world.until(State.RECOVERING)
    assert world.attempts[1].cause is Cause.PREEMPTED
    assert world.run.due == world.clock.at + timedelta(seconds=20)  # no newer checkpoint: it waits longer
    assert world.until(State.SUCCEEDED).attempts == 3


@pytest.mark.parametrize(
    ("life", "cause", "attempts"),
    [
        (Life(outcome=NAN), Cause.NAN, 1),
        (Life(outcome={**FAILED, "kind": "SpecError"}), Cause.USER_CODE, 1),
        (Life(outcome={**FAILED, "kind": "BadPicturesError"}), Cause.DATA, 1),
        (Life(outcome={**FAILED, "error": "CUDA out of memory"}), Cause.OUT_OF_MEMORY, 2),
        (Life(outcome=FAILED), Cause.UNKNOWN, 2),
        (Life(outcome=None, exit_code=-9), Cause.OUT_OF_MEMORY, 2),
        (Life(outcome={**FAILED, "kind": "UnreachableError"}), Cause.STORAGE_OUTAGE, 21),
    ],
)
def test_each_cause_is_tried_again_as_often_as_it_is_worth(make: Make, life: Life, cause: Cause, attempts: int) -> None:
    world = make(life)
    run = world.until(State.FAILED, most=4000)
    assert run.attempts == attempts
    assert {attempt.cause for attempt in world.attempts} == {cause}
    assert "Not tried again" in run.reason
    assert len(set(world.backend.starts)) == len(world.backend.starts) == attempts


def test_a_wait_is_waited_out_by_whoever_leads_then(make: Make) -> None:
    world = make(Life(outcome=None, exit_code=-9), Life())
    run = world.until(State.RECOVERING)
    assert run.due == world.clock.at + timedelta(seconds=60)
    world.leader = world.new_leader()
    world.clock.pass_time(59.9)
    assert not world.leader.tick()  # the other may be alive: its lease has not ended
    world.clock.pass_time(0.2)
    assert world.leader.tick()
    assert world.run.state is State.STARTING


def test_the_error_that_ended_the_workers_tells_the_cause(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(Life(outcome=None, exit_code=1, running_s=20))
    world.until(State.RUNNING)
    monkeypatch.setenv(SUBMISSION_VARIABLE, f"{world.id}-a1")
    world.own.write_failure(AccessDeniedError("Not yours."))
    assert world.until(State.FAILED).attempts == 1
    assert world.attempts[0].cause is Cause.USER_CODE


def test_an_outcome_tells_its_error_and_its_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "run")
    folder.write_outcome(failed(AccessDeniedError("Not yours.")))
    assert (folder.outcome() or {}).get("kind") == "AccessDeniedError"
    assert "submission" not in (folder.outcome() or {})
    monkeypatch.setenv(SUBMISSION_VARIABLE, "run-a3")
    passed_on = failed(error_of(failed(AccessDeniedError("Not yours.", hint="Ask."))))
    assert passed_on == {
        "status": "failed", "exit_code": 2, "error": "Not yours.", "hint": "Ask.",
        "kind": "AccessDeniedError", "submission": "run-a3",
    }  # fmt: skip
    folder.write_outcome({"status": "succeeded", "exit_code": 0})
    assert folder.outcome() == {"status": "succeeded", "exit_code": 0, "submission": "run-a3"}


def test_a_job_that_is_refused_is_not_offered_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()

    def refuse(run: Run, attempt: Attempt) -> Job:
        raise BackendError("no such image.")

    world.leader = world.new_leader(refuse)
    world.leader.tick()
    assert (world.run.state, world.attempts[0].cause) == (State.FAILED, Cause.USER_CODE)
    assert "no such image" in world.run.reason


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (AccessDeniedError("Not yours."), State.STARTING),
        (CredentialsError("Whose?"), State.STARTING),
        (BucketError("Which?"), State.STARTING),
        (AddressError("No such scheme."), State.FAILED),
    ],
)
def test_no_run_is_to_blame_for_rights_that_the_leader_lacks(make: Make, error: StorageError, state: State) -> None:
    world = make()

    def lacking(run: Run, attempt: Attempt) -> Job:
        raise error

    world.leader = world.new_leader(lacking)
    world.go_on(60)
    assert world.run.state is state
    if state is State.FAILED:
        return
    world.pass_time(61)
    world.leader = world.new_leader()  # its rights are mended
    assert world.until(State.SUCCEEDED).attempts == 1


def test_no_run_is_to_blame_where_the_backend_refuses_the_service(make: Make) -> None:
    world = make()
    world.backend.refuses = True
    world.go_on(600)
    assert (world.run.state, set(world.run.conditions)) == (State.STARTING, {Condition.UNREACHABLE})
    world.backend.refuses = False
    assert world.until(State.SUCCEEDED).attempts == 1


def test_a_run_that_is_to_stop_saves_by_itself_and_its_backend_is_not_bothered(make: Make) -> None:
    world = make(Life(running_s=ENDLESS, step=40))
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    assert world.until(State.CANCELLED).attempts == 1
    assert world.backend.stops == []
    [attempt] = world.attempts
    assert (attempt.state, attempt.cause, attempt.step) == (AttemptState.STOPPED, None, 40)
    assert [call for call in world.fuse.calls if call == "write stop"] == ["write stop"]


def test_a_run_that_does_not_listen_is_ended_by_its_backend_after_the_grace(make: Make) -> None:
    world = make(Life(running_s=ENDLESS, deaf=True))
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.go_on(PATIENCE.grace_s - 10)
    assert (world.backend.stops, world.run.state) == ([], State.STOPPING)
    world.pass_time(10)
    assert world.until(State.CANCELLED)
    assert world.backend.stops == [f"{world.id}-a1"]
    assert world.attempts[0].state is AttemptState.STOPPED


def test_a_job_that_takes_its_time_to_end_is_asked_again_only_after_another_grace(make: Make) -> None:
    world = make(Life(running_s=ENDLESS, deaf=True, dies_s=PATIENCE.grace_s + 30))
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.go_on(2 * PATIENCE.grace_s - 10)
    assert (world.backend.stops, world.run.state) == ([f"{world.id}-a1"], State.STOPPING)
    world.until(State.CANCELLED)
    assert len(world.backend.stops) == 2


def test_a_wish_that_the_job_swept_away_as_it_began_is_said_again(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.leader.tick()
    world.own.begin_attempt()
    world.leader.tick()
    assert world.own.stop_requested()


def test_a_job_that_waits_for_its_turn_is_ended_at_once(make: Make) -> None:
    world = make(Life(pending_s=ENDLESS))
    world.go_on(20)
    world.store.stop(world.id, actor="ann", words="Enough.")
    assert world.until(State.CANCELLED, most=2)
    assert world.backend.stops == [f"{world.id}-a1"]


def test_a_job_that_its_backend_ended_by_deleting_it_was_stopped_and_not_lost(make: Make) -> None:
    world = make(Life(pending_s=ENDLESS, vanishes=True))
    world.go_on(20)
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.until(State.CANCELLED)
    assert (world.attempts[0].state, world.attempts[0].cause) == (AttemptState.STOPPED, None)


def test_a_run_that_was_done_before_it_heard_says_so(make: Make) -> None:
    world = make(Life(deaf=True))
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    assert world.until(State.SUCCEEDED, State.CANCELLED).state is State.SUCCEEDED


def test_a_run_that_is_to_stop_is_not_started_again(make: Make) -> None:
    world = make(Life(deaf=True, outcome={**FAILED, "kind": "UnreachableError"}))
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.until(State.CANCELLED)
    world.go_on(1200, every=60)
    assert (world.run.attempts, world.attempts[0].cause) == (1, Cause.STORAGE_OUTAGE)


def test_a_run_stopped_before_its_job_was_submitted_never_gets_one(make: Make) -> None:
    world = make(fuse=Fuse(kills=lambda n: n == 2))  # after `begin` was stored, before submitting
    with pytest.raises(KilledError):
        world.leader.tick()
    assert world.run.state is State.STARTING
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.pass_time(61)
    world.leader = world.new_leader()
    world.leader.tick()
    assert (world.run.state, world.attempts[0].state) == (State.CANCELLED, AttemptState.STOPPED)
    assert world.backend.starts == []


def test_a_job_that_stands_still_is_called_stalled_and_nothing_else(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    world.own.write_progress({"phase": "training", "step": 5})
    world.go_on(1790)
    assert world.run.conditions == {}
    world.go_on(20)
    assert (world.run.state, set(world.run.conditions)) == (State.RUNNING, {Condition.STALLED})
    world.clock.pass_time(61)
    world.leader = world.new_leader()  # knows it from the store, and does not begin to count anew
    world.go_on(60)
    assert set(world.run.conditions) == {Condition.STALLED}
    world.own.write_progress({"phase": "training", "step": 6})
    world.leader.tick()
    assert world.run.conditions == {}


def test_a_job_that_waits_for_data_is_called_starved(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    held = []
    for step, wait in enumerate((0.1, 0.3, 0.15, 0.05, 0.15)):
        world.own.write_progress({"phase": "training", "step": step, "data_wait": wait})
        world.leader.tick()
        held.append(Condition.STARVED in world.run.conditions)
    assert held == [False, True, True, False, False]


def test_a_job_that_does_not_leave_after_its_outcome_is_ended(make: Make) -> None:
    world = make(Life(outcome=NAN, lingers_s=ENDLESS))
    world.until(State.FAILED)
    world.go_on(PATIENCE.grace_s - 20)
    assert world.backend.stops == []
    world.go_on(60)
    assert world.backend.stops == [f"{world.id}-a1"]
    world.go_on(600)
    assert world.backend.stops == [f"{world.id}-a1"]


def test_a_job_born_after_its_attempt_was_over_is_ended_at_once(make: Make) -> None:
    world = make(Life(outcome=None, vanishes=True, running_s=20), Life(running_s=ENDLESS))
    world.until(State.RECOVERING)
    late = f"{world.id}-a1"
    del world.backend.jobs[late]
    world.backend.submit(late, Job(["late"], {SUBMISSION_VARIABLE: late}))
    world.leader.tick()
    assert world.backend.stops == [late]
    assert world.until(State.RUNNING).attempts == 2


def test_a_new_leader_ends_what_an_old_one_left_behind(make: Make) -> None:
    world = make(Life(outcome=NAN, lingers_s=ENDLESS))
    world.until(State.FAILED)
    world.pass_time(PATIENCE.grace_s)
    world.leader = world.new_leader()
    world.leader.tick()
    assert world.backend.stops == [f"{world.id}-a1"]


def test_one_run_in_trouble_does_not_keep_the_leader_from_others(make: Make, clock: Clock) -> None:
    bad, good = make(Life()), make(Life())

    def command(run: Run, attempt: Attempt) -> Job:
        if run.id == bad.id:
            raise ZeroDivisionError
        return Job(["train"])

    good.leader = good.new_leader(command)
    assert good.until(State.SUCCEEDED)
    assert bad.run.state is State.STARTING


def test_a_leader_that_lost_its_lease_writes_nothing(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))
    world.until(State.RUNNING)
    old, world.leader = world.leader, world.new_leader()
    world.pass_time(61)
    assert world.leader.tick()
    version = world.run.version
    world.backend.reachable = False
    assert not old.tick()
    assert world.run.version == version


def test_a_leader_that_loses_its_lease_within_a_pass_writes_nothing_more(make: Make, database: Database) -> None:
    taken = []

    def steal(call: int) -> bool:
        if not taken and world.fuse.calls[call] == "submitted":
            world.clock.pass_time(61)
            taken.append(Leases(database).acquire(LEASE, "another", seconds=60))
        return False

    world = make(fuse=Fuse(kills=steal))
    assert not world.leader.tick()
    assert taken[0] is not None
    assert world.attempts[0].state is AttemptState.INTENDED  # the job is there, and the next leader will find it


def test_a_wish_to_stop_that_comes_while_a_run_is_looked_after_is_heard_before_its_job_is_submitted(
    make: Make,
) -> None:
    def prepared(run: Run, attempt: Attempt) -> Job:
        world.store.stop(world.id, actor="ann", words="Enough.")
        return Job(["train", run.id])

    world = make()
    world.leader = world.new_leader(prepared)
    world.leader.tick()
    assert (world.run.state, world.backend.starts) == (State.STOPPING, [])
    world.leader.tick()
    assert (world.run.state, world.backend.starts) == (State.CANCELLED, [])


SCRIPTS: dict[str, tuple[list[Life], bool]] = {
    "succeeds": ([Life()], False),
    "goes on twice": ([Life(outcome=SIGTERMED, step=3), Life(outcome=None, vanishes=True, step=5), Life()], False),
    "fails": ([Life(outcome=FAILED), Life(outcome=FAILED)], False),
    "is stopped": ([Life(running_s=ENDLESS, step=4)], True),
    "is stopped and deaf": ([Life(outcome=SIGTERMED), Life(running_s=ENDLESS, deaf=True)], True),
    "ends before it is stopped": ([Life(running_s=100, deaf=True)], True),
}


def wait_for(true: Callable[[], bool]) -> None:
    """Real processes take real time."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def drive(world: World, lives: list[Life], stop: bool, *, most: int = 600) -> None:
    """Let leaders come, die and be followed until the run has ended, and its last log is complete."""
    endless, asked, after = len(lives), False, 0
    for _ in range(most):
        try:
            world.leader.tick()
        except KilledError:
            world.leader = world.new_leader()
            world.pass_time(61)
            continue
        run = world.run
        if stop and not asked and run.state is State.RUNNING and run.attempts == endless:
            world.store.stop(world.id, actor="ann", words="Enough.")
            asked = True
        after += run.state.is_final
        if after > 3:
            return
        world.pass_time(20)
    raise AssertionError(f"still {world.run.state}: {world.run.reason}")


def told(world: World) -> list[tuple[object, ...]]:
    """What became of a run, without its times."""
    run = world.run
    each = [(attempt.state, attempt.cause, attempt.step, attempt.submission_id[-2:]) for attempt in world.attempts]
    return [(run.state, run.attempts), *each]


def check(world: World) -> None:
    """What must hold however often leaders died."""
    assert world.backend.starts == [attempt.submission_id for attempt in world.attempts]
    assert len(set(world.backend.starts)) == len(world.backend.starts)
    assert [event.number for event in world.store.events(world.id)] == list(range(1, world.run.version + 1))
    for attempt in world.attempts:
        log = RunLog(world.own.storage, attempt.number)
        assert log.is_complete
        assert log.read(0).data == world.backend.jobs[attempt.submission_id].log


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_leader_may_die_at_any_call(make: Make, name: str) -> None:
    lives, stop = SCRIPTS[name]
    world = make(*lives)
    drive(world, lives, stop)
    check(world)
    expected, calls = told(world), len(world.fuse.calls)
    assert calls > 10
    for call in range(calls):
        world = make(*lives, fuse=Fuse(kills=lambda n, call=call: n == call))
        drive(world, lives, stop)
        assert told(world) == expected, f"killed at {world.fuse.calls[call]}"
        check(world)


def test_leaders_may_die_again_and_again(make: Make) -> None:
    expected: dict[str, list[tuple[object, ...]]] = {}
    for name, (lives, stop) in SCRIPTS.items():
        world = make(*lives)
        drive(world, lives, stop)
        expected[name] = told(world)
    for seed in range(100):
        drawn = random.Random(seed)
        name = drawn.choice(list(SCRIPTS))
        lives, stop = SCRIPTS[name]
        rate = drawn.choice([0.02, 0.1, 0.2])
        world = make(*lives, fuse=Fuse(kills=lambda _, drawn=drawn, rate=rate: drawn.random() < rate))
        drive(world, lives, stop)
        assert told(world) == expected[name], f"seed {seed}, {name}"
        check(world)


def test_two_leaders_that_take_turns_start_every_job_once(make: Make) -> None:
    lives = SCRIPTS["goes on twice"][0]
    for seed in range(20):
        drawn = random.Random(seed)
        world = make(*lives)
        leaders = [world.leader, world.new_leader()]
        for _ in range(400):
            drawn.choice(leaders).tick()
            if world.run.state.is_final:
                break
            world.pass_time(drawn.choice([1, 10, 61]))
        world.go_on(200)
        assert (world.run.state, world.run.attempts) == (State.SUCCEEDED, 3)
        assert len(world.backend.starts) == len(set(world.backend.starts)) == 3
        world.clock.pass_time(61)


def test_whoever_stops_leading_lets_another_lead_at_once(make: Make) -> None:
    world = make(Life(running_s=ENDLESS))

    class Flag(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            world.pass_time(timeout or 0)
            if world.run.state is State.RUNNING:
                self.set()
            return self.is_set()

    world.leader.run_forever(Flag(), 10)
    assert world.run.state is State.RUNNING
    assert world.new_leader().tick()


def test_a_leader_leaves_when_all_jobs_have_left_and_their_logs_are_kept(make: Make) -> None:
    world = make(Life(lingers_s=60))
    assert not world.leader.leave_if_idle()
    world.until(State.SUCCEEDED)
    assert not world.leader.leave_if_idle()
    world.pass_time(60)
    world.leader.tick()
    assert RunLog(world.own.storage, 1).is_complete
    assert world.leader.leave_if_idle()
    assert world.new_leader().tick()


def test_a_leader_does_not_stay_for_a_job_that_was_never_submitted(make: Make) -> None:
    world = make(fuse=Fuse(kills=lambda n: n == 2))  # after `begin` was stored, before submitting
    with pytest.raises(KilledError):
        world.leader.tick()
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.pass_time(61)
    world.leader = world.new_leader()
    world.until(State.CANCELLED)
    assert world.leader.leave_if_idle()


def test_a_leader_does_not_stay_for_a_job_that_nobody_can_ask_for(make: Make) -> None:
    world = make(Life(lingers_s=ENDLESS))
    world.until(State.SUCCEEDED)
    assert not world.leader.leave_if_idle()
    world.backend.reachable = False
    world.leader.tick()
    assert world.leader.leave_if_idle()


def test_a_job_that_nobody_can_ask_for_is_asked_for_no_longer_than_a_day(make: Make) -> None:
    world = make(Life(lingers_s=ENDLESS))
    world.until(State.SUCCEEDED)
    world.backend.reachable = False
    world.leader.tick()
    world.clock.pass_time(23 * 3600)
    looks = world.backend.looks
    world.leader.tick()
    assert world.backend.looks == looks + 1
    world.clock.pass_time(3600)
    world.leader.tick()
    world.leader.tick()
    assert world.backend.looks == looks + 2


def test_a_run_that_is_stored_while_a_leader_leaves_is_not_left_alone(make: Make, database: Database) -> None:
    """Whoever stored it had still found the lease held, and so has started no leader."""
    world = make()

    class Meanwhile(Leases):
        def release(self, lease: Lease) -> bool:
            assert somebody_leads(self, world.clock)
            world.store.create(NewRun("late", "photos", "name: photos\n", "abc", "ann"))
            return super().release(lease)

    world.leader = world.new_leader(leases=Meanwhile(database))
    world.until(State.SUCCEEDED)
    world.leader.tick()
    assert not world.leader.leave_if_idle()
    assert world.leader.tick()
    assert world.store.get("late").state is State.STARTING


def test_progress_is_kept_where_lists_find_it_and_changes_nothing(make: Make) -> None:
    world = make(Life(running_s=100))
    world.until(State.RUNNING)
    assert world.store.progress_of([world.id]) == {}
    world.own.write_progress({"phase": "training", "step": 5, "metrics": {"loss": float("nan")}})
    version = world.run.version
    world.leader.tick()
    said = world.clock.at
    world.pass_time(10)
    world.leader.tick()
    world.clock.pass_time(61)
    world.leader = world.new_leader()  # who knows nothing of it does not take it for new either
    world.leader.tick()
    told = {"phase": "training", "step": 5, "metrics": {"loss": None}}
    assert world.store.progress_of([world.id]) == {world.id: (said, told)}
    assert world.run.version == version
    world.own.write_progress({"phase": "done", "step": 9})
    world.until(State.SUCCEEDED)
    assert world.store.progress_of([world.id])[world.id][1] == {"phase": "done", "step": 9}


def test_a_resumed_run_goes_on_with_the_next_attempt_and_its_budgets_anew(make: Make) -> None:
    world = make(Life(outcome=FAILED), Life(outcome=FAILED), Life(outcome=FAILED), Life())
    world.until(State.FAILED)
    assert "Not tried again" in world.run.reason
    world.store.resume(world.id, actor="ann", words="The disk is larger.")
    assert world.until(State.RECOVERING).attempts == 3  # tried again, as if nothing had been before
    run = world.until(State.SUCCEEDED)
    assert (run.attempts, world.backend.starts) == (4, [f"{world.id}-a{number}" for number in range(1, 5)])
    assert [event.number for event in world.store.events(world.id)] == list(range(1, run.version + 1))


def test_a_wish_to_stop_of_before_does_not_stop_a_resumed_run(make: Make) -> None:
    world = make(Life(running_s=ENDLESS), Life())
    world.until(State.RUNNING)
    world.store.stop(world.id, actor="ann", words="Enough.")
    world.until(State.CANCELLED)
    assert world.own.stop_requested()
    world.store.resume(world.id, actor="ann", words="After all.")
    assert world.until(State.SUCCEEDED, State.CANCELLED).state is State.SUCCEEDED


def test_the_log_of_a_deleted_run_does_not_bring_its_folder_back(make: Make) -> None:
    world = make(Life(outcome=NAN, lingers_s=60))
    world.until(State.FAILED)
    world.store.delete(world.id, actor="ann", words="Not needed.")
    shutil.rmtree(world.own.url)
    world.pass_time(60)
    world.leader.tick()
    assert not Path(world.own.url).exists()
    assert world.leader.leave_if_idle()


@pytest.mark.parametrize("state", [state for state in State if state.has_live_attempt])
@pytest.mark.parametrize("of", [state for state in AttemptState if not state.is_final])
@pytest.mark.parametrize("folder", [None, FolderEvidence(), FolderEvidence(progress={"phase": "training", "step": 3})])
def test_without_an_answer_and_an_outcome_nothing_follows(
    make: Make, state: State, of: AttemptState, folder: FolderEvidence | None
) -> None:
    world = make()
    world.leader.tick()
    seen = Seen(
        replace(world.run, state=state),
        [replace(world.attempts[0], state=of)],
        world.clock.at + timedelta(days=9),
        silence="nobody answers.",
        folder=folder,
        pace=Pace(),
        stopping_since=world.clock.at,
    )
    actions = decide(seen)
    assert SetCondition(Condition.UNREACHABLE, True, "The backend does not answer: nobody answers.") in actions
    asked = [AskFolder()] if state is State.STOPPING and folder is not None else []
    assert actions[1:] == asked


@pytest.mark.parametrize("state", [state for state in State if state.has_live_attempt])
@pytest.mark.parametrize("status", ["failed", "succeeded", "stopped", "absent"])
def test_an_end_is_not_stored_before_the_folder_could_be_read(make: Make, state: State, status: Status) -> None:
    world = make()
    world.leader.tick()
    for of in (AttemptState.INTENDED, AttemptState.RUNNING):
        run, attempt = replace(world.run, state=state), replace(world.attempts[0], state=of)
        assert decide(Seen(run, [attempt], world.clock.at, answer=Answer(status))) == []


def test_events_tell_diagnosis_and_decision(make: Make) -> None:
    world = make(Life(outcome=SIGTERMED), Life())
    world.until(State.SUCCEEDED)
    [lost] = [event for event in world.store.events(world.id) if event.kind == "lost"]
    assert lost.words.startswith("It was interrupted from outside")
    assert "Tried again in 10 s" in lost.words
    assert json.loads(json.dumps(lost.data)) == lost.data
    assert (lost.data["cause"], lost.data["exit_code"], lost.data["actor"]) == ("preempted", 130, "leader")


def test_processes_on_this_machine_are_begun_once_gone_on_with_and_kept_in_words(
    make: Make, database: Database, tmp_path: Path
) -> None:
    """With the real backend: the first attempt is interrupted, its leader dies, the next one succeeds."""
    world = make()
    backend = LocalBackend(tmp_path / "jobs")
    outcomes = ({"status": "stopped", "exit_code": 130}, {"status": "succeeded", "exit_code": 0})

    def command(run: Run, attempt: Attempt) -> Job:
        outcome = outcomes[attempt.number - 1]
        return Job([sys.executable, "-c", JOB, str(world.root), run.id, json.dumps(outcome)])

    def new_leader() -> Reconciler:
        store, listed, leases = RunStore(database), RunList(database), Leases(database)
        return Reconciler(store, listed, leases, {"local": backend}, command, world.folder, world.clock)

    def ended(submission: str) -> bool:
        return backend.look(submission).ended

    leader = new_leader()
    leader.tick()
    wait_for(lambda: ended(f"{world.id}-a1"))
    leader.tick()
    assert (world.run.state, world.attempts[0].cause) == (State.RECOVERING, Cause.PREEMPTED)
    world.clock.pass_time(61)
    leader = new_leader()
    leader.tick()
    wait_for(lambda: ended(f"{world.id}-a2"))
    leader.tick()
    assert (world.run.state, world.run.attempts) == (State.SUCCEEDED, 2)
    for number, status in ((1, b"stopped"), (2, b"succeeded")):
        log = RunLog(world.own.storage, number)
        assert log.is_complete
        assert log.read(0).data == f"{world.id}-a{number} ".encode() + status + b"\n"


def test_the_store_of_another_database_works_alike(url: str, clock: Clock, tmp_path: Path) -> None:
    with open_database(url, clock=clock) as database:
        world = World(database, clock, tmp_path / "runs", Life(outcome=SIGTERMED), Life())
        assert world.until(State.SUCCEEDED).attempts == 2
        assert isinstance(world.store, RunStore)
