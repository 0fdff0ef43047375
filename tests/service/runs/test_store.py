"""The store of runs: what is written with what, and who wins where two write."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from service.runs.database import Database, open_database
from service.runs.errors import (
    ConflictError,
    DeletedRunError,
    NotLeaderError,
    RunExistsError,
    TransitionError,
    UnknownRunError,
)
from service.runs.leases import Leases
from service.runs.records import Ending, NewRun, Run
from service.runs.retry import Cause
from service.runs.schema import JsonObject
from service.runs.states import AttemptState, Condition, Refusal, Signal, Snapshot, State, advance
from service.runs.store import RunStore
from tests.service.runs.conftest import Clock
from tests.service.runs.racing import line_up, race


def new(run_id: str = "one") -> NewRun:
    return NewRun(
        run_id,
        "photos",
        "name: photos\n",
        "abc",
        "ann",
        project="birds",
        lineage={"sweep": "s"},
        storage="s3://lake/runs",
    )


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


def moved(store: RunStore, run: Run, *signals: Signal) -> Run:
    for signal in signals:
        run = store.move(run, signal, words=f"{signal}.", actor="leader", backend="ray")
    return run


def test_a_run_is_stored_as_asked_for(store: RunStore, clock: Clock) -> None:
    run = store.create(new())
    assert run == store.get("one")
    assert (run.state, run.attempts, run.version, run.created, run.conditions) == (State.QUEUED, 0, 1, clock.at, {})
    assert (run.name, run.project, run.owner, run.spec, run.spec_hash, run.lineage, run.kind, run.storage) == (
        "photos", "birds", "ann", "name: photos\n", "abc", {"sweep": "s"}, "run", "s3://lake/runs",
    )  # fmt: skip
    [event] = store.events("one")
    assert (event.number, event.kind, event.data) == (1, "created", {"actor": "ann", "state": "queued"})


def test_an_id_is_taken_once(store: RunStore) -> None:
    store.create(new())
    with pytest.raises(RunExistsError):
        store.create(new())
    with pytest.raises(UnknownRunError):
        store.get("two")


def test_the_intent_to_start_is_stored_with_the_id_of_the_job(store: RunStore, clock: Clock) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN)
    assert (run.state, run.attempts, run.reason) == (State.STARTING, 1, "begin.")
    [attempt] = store.attempts("one")
    assert (attempt.submission_id, attempt.backend, attempt.state, attempt.started, attempt.ended) == (
        "one-a1", "ray", AttemptState.INTENDED, clock.at, None,
    )  # fmt: skip
    assert store.attempt_of("one-a1") == attempt
    assert store.attempt_of("one-a2") is None


def test_a_lost_attempt_keeps_its_cause_and_the_next_gets_a_number_of_its_own(store: RunStore, clock: Clock) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN, Signal.ACCEPTED, Signal.RUNNING)
    clock.pass_time(60)
    due = clock.at + timedelta(seconds=15)
    run = store.move(
        run,
        Signal.LOST,
        words="A host was lost.",
        actor="leader",
        ending=Ending(Cause.NODE_LOST, exit_code=1, step=400),
        due=due,
    )
    assert (run.state, run.reason, run.due) == (State.RECOVERING, "A host was lost.", due)
    run = moved(store, run, Signal.BEGIN)
    assert (run.state, run.attempts, run.due) == (State.STARTING, 2, None)
    first, second = store.attempts("one")
    assert (first.state, first.cause, first.exit_code, first.step) == (AttemptState.FAILED, Cause.NODE_LOST, 1, 400)
    assert first.ended == clock.at
    assert (second.submission_id, second.state, second.cause) == ("one-a2", AttemptState.INTENDED, None)
    lost = store.events("one")[-2]
    assert (lost.kind, lost.words, lost.data) == (
        "lost",
        "A host was lost.",
        {"actor": "leader", "attempt": 1, "cause": "node_lost", "exit_code": 1, "state": "recovering"},
    )


def test_stopping_a_run_between_two_attempts_leaves_the_last_one_as_it_ended(store: RunStore, clock: Clock) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN)
    run = store.move(run, Signal.LOST, words="Lost.", actor="leader", ending=Ending(Cause.PREEMPTED), due=clock.at)
    before = store.attempts("one")
    clock.pass_time(5)
    run = store.stop("one", actor="ann", words="Enough.")
    assert (run.state, run.due, run.reason) == (State.CANCELLED, None, "Enough.")
    assert store.attempts("one") == before


def test_a_change_decided_on_an_old_version_is_refused_whole(store: RunStore) -> None:
    run = store.create(new())
    store.note("one", "Looked at.", actor="ann")
    with pytest.raises(ConflictError):
        moved(store, run, Signal.BEGIN)
    assert store.get("one").state is State.QUEUED
    assert store.attempts("one") == []
    assert [event.kind for event in store.events("one")] == ["created", "note"]


def test_a_signal_that_means_nothing_is_refused_whole(store: RunStore) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN, Signal.RUNNING)
    with pytest.raises(TransitionError, match="'begin' cannot happen to a run that is running") as caught:
        moved(store, run, Signal.BEGIN)
    assert caught.value.refusal == Refusal(State.RUNNING, Signal.BEGIN)
    assert store.get("one") == run
    assert len(store.attempts("one")) == 1


def test_a_signal_that_changes_nothing_writes_nothing(store: RunStore) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN, Signal.RUNNING)
    assert moved(store, run, Signal.RUNNING, Signal.RUNNING, Signal.ACCEPTED) == run
    stopping = store.stop("one", actor="ann", words="Enough.")
    assert store.stop("one", actor="ben", words="Enough!") == stopping
    assert stopping.reason == "Enough."


def test_a_run_that_has_ended_cannot_be_stopped(store: RunStore) -> None:
    moved(store, store.create(new()), Signal.BEGIN, Signal.SUCCEEDED)
    with pytest.raises(TransitionError, match="the run has succeeded"):
        store.stop("one", actor="ann", words="Enough.")


def test_events_are_numbered_without_gaps_and_can_be_taken_up_after_any(store: RunStore) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN, Signal.ACCEPTED, Signal.RUNNING)
    store.set_condition("one", Condition.STALLED, holds=True, words="No step for 10 minutes.")
    store.note("one", "Looked at.", actor="ann", data={"eye": 1})
    events = store.events("one")
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
    assert store.get("one").version == 6 == run.version + 2
    assert store.events("one", after=4) == events[4:]
    assert store.events("one", after=2, limit=1) == events[2:3]
    assert events[-1].data == {"actor": "ann", "eye": 1, "state": "running"}


def failed(store: RunStore, run_id: str = "one") -> Run:
    run = moved(store, store.create(new(run_id)), Signal.BEGIN, Signal.RUNNING)
    return store.move(run, Signal.FAILED, words="Diverged.", actor="leader", ending=Ending(Cause.NAN, 1, 400))


def test_a_run_that_failed_goes_on_under_its_id_with_budgets_anew(store: RunStore, clock: Clock) -> None:
    ended = failed(store)
    before = store.attempts("one")
    clock.pass_time(60)
    run = store.resume("one", actor="ann", words="The learning rate is lower.", data={"changed": ["scale.workers"]})
    assert (run.state, run.attempts, run.budget_from, run.version) == (State.QUEUED, 1, 1, ended.version + 1)
    assert (run.reason, run.spec, run.spec_hash) == ("The learning rate is lower.", ended.spec, ended.spec_hash)
    assert store.attempts("one") == before
    event = store.events("one", after=ended.version)[0]
    assert (event.kind, event.data) == (
        "resume", {"actor": "ann", "attempt": 1, "changed": ["scale.workers"], "state": "queued"},
    )  # fmt: skip
    assert moved(store, run, Signal.BEGIN).attempts == 2
    assert store.attempts("one")[1].submission_id == "one-a2"


def test_a_spec_is_changed_with_the_wish_to_go_on_or_not_at_all(store: RunStore) -> None:
    failed(store)
    run = store.resume("one", actor="ann", words="Again.", spec="name: photos\nscale: {}\n", spec_hash="def")
    assert (run.spec, run.spec_hash) == ("name: photos\nscale: {}\n", "def")
    with pytest.raises(TransitionError, match="'resume' cannot happen to a run that is queued"):
        store.resume("one", actor="ann", words="Again.", spec="name: other\n", spec_hash="ghi")
    assert store.get("one") == run


def test_a_run_that_was_cancelled_before_its_first_attempt_may_go_on(store: RunStore) -> None:
    store.create(new())
    store.stop("one", actor="ann", words="Enough.")
    run = store.resume("one", actor="ann", words="After all.")
    assert (run.state, run.attempts, run.budget_from) == (State.QUEUED, 0, 0)


def test_a_run_that_succeeded_is_not_resumed(store: RunStore) -> None:
    moved(store, store.create(new()), Signal.BEGIN, Signal.SUCCEEDED)
    with pytest.raises(TransitionError, match="the run has succeeded, and stays so"):
        store.resume("one", actor="ann", words="Again.")


def test_a_deleted_run_says_so_keeps_what_happened_and_cannot_go_on(store: RunStore, clock: Clock) -> None:
    ended = failed(store)
    clock.pass_time(60)
    run = store.delete("one", actor="ann", words="Not needed.")
    assert (run.deleted, run.state, run.version) == (clock.at, State.FAILED, ended.version + 1)
    assert store.delete("one", actor="ben", words="Not needed either.") == run == store.get("one")
    assert [event.kind for event in store.events("one")][-2:] == ["failed", "deleted"]
    assert len(store.attempts("one")) == 1
    with pytest.raises(DeletedRunError, match=r"run one was deleted on 2026-03-01 12:01 UTC"):
        store.resume("one", actor="ann", words="Again.", spec="name: other\n")
    assert store.get("one") == run


def test_a_run_that_has_not_ended_is_not_deleted(store: RunStore) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN)
    with pytest.raises(TransitionError, match=r"a run that is starting.*reco runs stop one"):
        store.delete("one", actor="ann", words="Not needed.")
    assert store.get("one") == run


def test_the_last_progress_is_kept_and_is_no_event(store: RunStore, clock: Clock) -> None:
    run = store.create(new())
    store.create(new("two"))
    store.save_progress("one", {"phase": "training", "step": 5})
    clock.pass_time(2)
    store.save_progress("one", {"phase": "training", "step": 6})
    new_at = clock.at
    clock.pass_time(2)
    store.save_progress("one", {"phase": "training", "step": 6})
    assert store.progress_of(["one", "two", "three"]) == {"one": (new_at, {"phase": "training", "step": 6})}
    assert store.progress_of([]) == {}
    assert store.get("one") == run
    with pytest.raises(UnknownRunError):
        store.save_progress("three", {})


def test_progress_with_numbers_that_are_none_is_kept_without_them(store: RunStore) -> None:
    store.create(new())
    said: JsonObject = {
        "metrics": {"loss": float("nan"), "knn": 0.5},
        "probes": [float("inf"), 1, 2**63, True],
        "plan": "a\0b",
    }
    store.save_progress("one", said)
    kept: JsonObject = {"metrics": {"loss": None, "knn": 0.5}, "probes": [None, 1, None, True], "plan": "ab"}
    assert store.progress_of(["one"])["one"][1] == kept


def test_attempts_that_ended_lately_come_with_their_runs(store: RunStore, clock: Clock) -> None:
    failed(store, "old")
    clock.pass_time(3600)
    ended = failed(store)
    moved(store, store.create(new("live")), Signal.BEGIN)
    assert store.ended_since(clock.at) == [(ended, store.attempts("one")[0])]
    resumed = store.resume("old", actor="ann", words="Again.")
    assert store.ended_since(clock.at - timedelta(hours=2))[0] == (resumed, store.attempts("old")[0])


@pytest.mark.parametrize("condition", Condition)
def test_a_condition_comes_and_goes_and_never_changes_the_state(
    store: RunStore, clock: Clock, condition: Condition
) -> None:
    run = moved(store, store.create(new()), Signal.BEGIN, Signal.RUNNING)
    since = clock.at
    held = store.set_condition("one", condition, holds=True, words="It does.")
    clock.pass_time(30)
    assert store.set_condition("one", condition, holds=True, words="It still does.") == held
    assert held.conditions == {condition: since}
    assert (held.state, held.reason, held.attempts) == (run.state, run.reason, run.attempts)
    gone = store.set_condition("one", condition, holds=False, words="It does not.")
    assert (gone.conditions, gone.version) == ({}, run.version + 2)


def test_conditions_are_independent_and_end_with_the_attempt(store: RunStore) -> None:
    moved(store, store.create(new()), Signal.BEGIN, Signal.RUNNING)
    store.set_condition("one", Condition.STALLED, holds=True, words="Stalled.")
    run = store.set_condition("one", Condition.STARVED, holds=True, words="Starved.")
    assert set(run.conditions) == {Condition.STALLED, Condition.STARVED}
    run = store.move(run, Signal.FAILED, words="Diverged.", actor="leader", ending=Ending(Cause.NAN))
    assert run.conditions == {}
    assert store.set_condition("one", Condition.UNREACHABLE, holds=True, words="Away.") == run


def test_the_database_itself_refuses_a_second_live_attempt(database: Database, store: RunStore) -> None:
    moved(store, store.create(new()), Signal.BEGIN)
    second = (
        "INSERT INTO attempts (run_id, number, submission_id, backend, state, started) "
        "VALUES ('one', 2, 'one-a2', 'ray', 'intended', '2026-03-01 12:00:00')"
    )
    with pytest.raises(IntegrityError), database.writing() as session:
        session.execute(text(second))


def test_what_a_replaced_leader_decided_is_not_written(database: Database, store: RunStore, clock: Clock) -> None:
    leases = Leases(database)
    run = store.create(new())
    old = leases.acquire("leader", "a", seconds=10)
    assert old is not None
    run = store.move(run, Signal.BEGIN, words="Begun.", actor="a", lease=old)
    clock.pass_time(11)
    new_one = leases.acquire("leader", "b", seconds=10)
    with pytest.raises(NotLeaderError):
        store.move(run, Signal.LOST, words="Lost.", actor="a", lease=old)
    with pytest.raises(NotLeaderError):
        store.set_condition("one", Condition.UNREACHABLE, holds=True, words="Away.", lease=old)
    with pytest.raises(NotLeaderError):
        store.note("one", "Away.", actor="a", lease=old)
    with pytest.raises(NotLeaderError):
        store.save_progress("one", {"step": 1}, lease=old)
    assert store.progress_of(["one"]) == {}
    assert store.get("one") == run
    assert store.move(run, Signal.RUNNING, words="Runs.", actor="b", lease=new_one).state is State.RUNNING


def _begin(given: tuple[str, Run]) -> str:
    url, run = given
    with open_database(url) as database:
        line_up()
        try:
            return RunStore(database).move(run, Signal.BEGIN, words="Begun.", actor="x").state
        except ConflictError:
            return "conflict"


def test_of_four_processes_that_begin_an_attempt_one_does(url: str, store: RunStore) -> None:
    run = store.create(new())
    assert sorted(race(_begin, [(url, run)] * 4)) == ["conflict", "conflict", "conflict", "starting"]
    assert [attempt.submission_id for attempt in store.attempts("one")] == ["one-a1"]
    assert [event.kind for event in store.events("one")] == ["created", "begin"]


def test_notes_of_many_threads_are_all_kept_each_under_a_number_of_its_own(store: RunStore) -> None:
    store.create(new())
    with ThreadPoolExecutor(4) as pool:
        notes = list(pool.map(lambda each: store.note("one", f"note {each}", actor="x"), range(40)))
    assert sorted(note.number for note in notes) == list(range(2, 42))
    assert {event.words for event in store.events("one")[1:]} == {f"note {each}" for each in range(40)}


def test_a_wish_to_stop_is_heard_while_the_leader_writes(store: RunStore) -> None:
    moved(store, store.create(new()), Signal.BEGIN, Signal.RUNNING)
    with ThreadPoolExecutor(2) as pool:
        notes = pool.submit(lambda: [store.note("one", str(each), actor="leader") for each in range(30)])
        stopped = pool.submit(store.stop, "one", actor="ann", words="Enough.")
        assert stopped.result().state is State.STOPPING
        assert len(notes.result()) == 30
    assert store.get("one").state is State.STOPPING


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStore]:
    with open_database(f"sqlite:///{tmp_path_factory.mktemp('lasting')}/runs.db") as database:
        yield RunStore(database)


_ids = iter(range(10**9))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(signals=st.lists(st.sampled_from(Signal), max_size=25))
def test_the_store_does_what_the_table_says_for_any_sequence(lasting: RunStore, signals: list[Signal]) -> None:
    run, expected, changes = lasting.create(new(f"run-{next(_ids)}")), Snapshot(), 1
    for signal in signals:
        after = advance(expected, signal)
        if isinstance(after, Refusal):
            with pytest.raises(TransitionError):
                moved(lasting, run, signal)
            continue
        changes += after != expected
        run, expected = moved(lasting, run, signal), after
        attempts = lasting.attempts(run.id)
        assert run.snapshot(attempts[-1] if attempts else None) == expected
        assert [attempt.number for attempt in attempts] == list(range(1, expected.attempts + 1))
        assert sum(attempt.ended is None for attempt in attempts) == expected.state.has_live_attempt
    assert [event.number for event in lasting.events(run.id)] == list(range(1, changes + 1))


def test_it_stays_where_it_was_put(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_database(url) as database:
        run = moved(RunStore(database), RunStore(database).create(new()), Signal.BEGIN)
    with open_database(url) as database:
        assert RunStore(database).get("one") == run
