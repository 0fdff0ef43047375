"""What the service does with runs: stored once, changed as the contract says, shown to whom they belong."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.run_folder import RunFolder
from jobs.spec import SpecError
from service.backends.base import Job
from service.contract.interface import Runs, Service, Wanted
from service.contract.messages import Change, NewToken, RunView, Submission
from service.control.control import Control
from service.control.job import folder_of, job_of
from service.runs.errors import KeyReusedError, RunExistsError, TransitionError, UnknownRunError
from service.runs.logs import RunLog
from service.runs.records import Ending
from service.runs.retry import Cause
from service.runs.states import Signal, State
from tests.pictures import tiny_spec
from tests.service.control.conftest import caller

SWEEP = "name: search\nbase: base.yaml\nspace: {method.temperature: {uniform: [0.05, 0.5]}}\ntrials: 3\n"


@pytest.fixture
def spec(shards: Path) -> str:
    return tiny_spec(shards, probe=shards)


def to_its_end(control: Control, run_id: str, signal: Signal = Signal.FAILED) -> None:
    """As if its one attempt had ended."""
    move, act = control.store.move, {"words": "as a test says", "actor": "test"}
    run = move(control.store.get(run_id), Signal.BEGIN, backend="local", **act)
    ending = Ending(Cause.UNKNOWN if signal is Signal.FAILED else None, 1, 0)
    move(run, signal, ending=ending, **act)


def with_a_checkpoint(control: Control, run: RunView) -> RunFolder:
    folder = RunFolder(run.storage, run.id)
    state = b"weights"
    folder.storage.write("checkpoints/step-000000000004/state.pt", state)
    manifest = {"step": 4, "size": len(state), "sha256": "0", "spec_hash": run.spec_hash, "dataset_hash": "d"}
    folder.storage.write("checkpoints/step-000000000004/manifest.json", json.dumps(manifest).encode())
    return folder


def test_a_submission_is_stored_whole_and_waits_for_the_leader(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec, overrides=["train.epochs=7"]))
    assert (run.state, run.owner, run.project, run.kind) == (State.QUEUED, "ann", "default", "run")
    assert run.id == "tiny-20260301-120000"
    details = runs.show(run.id)
    assert "epochs: 7" in details.spec
    assert [event.kind for event in runs.events(run.id)] == ["created"]
    assert [(entry.action, entry.target) for entry in control.audit.entries()] == [("run.submit", run.id)]
    assert runs.submit(Submission(spec=spec)).id == "tiny-20260301-120000-2"  # in the same second


def test_the_same_request_under_one_key_stores_one_run(runs: Runs, spec: str) -> None:
    first = runs.submit(Submission(spec=spec), key="k")
    assert runs.submit(Submission(spec=spec), key="k") == first
    assert len(runs.page().runs) == 1
    with pytest.raises(KeyReusedError):
        runs.submit(Submission(spec=spec, run_id="other"), key="k")


def test_a_repeated_submission_is_answered_although_its_job_has_written_into_its_folder(
    control: Control, spec: str
) -> None:
    mine = control.service(caller("ben", "mine")).runs
    first = mine.submit(Submission(spec=spec, run_id="ours"), key="k")
    RunFolder(first.storage, first.id).storage.write("spec.yaml", b"begun")
    assert mine.submit(Submission(spec=spec, run_id="ours"), key="k") == first


def test_a_repeated_fork_is_answered_although_its_weights_are_gone(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec, run_id="origin"))
    folder = with_a_checkpoint(control, run)
    first = runs.fork(run.id, Change(run_id="fork"), key="k")
    for each in list(folder.storage.list("checkpoints/")):
        folder.storage.delete(each.key)
    assert runs.fork(run.id, Change(run_id="fork"), key="k") == first
    with pytest.raises(UserError, match="no whole checkpoint"):
        runs.fork(run.id, Change(run_id="fork"), key="another")


def test_mistakes_are_told_all_at_once_and_nothing_is_stored(runs: Runs, spec: str) -> None:
    with pytest.raises(SpecError) as raised:
        runs.submit(Submission(spec=spec, overrides=["train.epochs=-1", "method.temperatur=1"]))
    assert len(raised.value.mistakes) == 2
    runs.submit(Submission(spec=spec, run_id="mine"))
    with pytest.raises(RunExistsError):
        runs.submit(Submission(spec=spec, run_id="mine"))
    with pytest.raises(UserError, match="base"):
        runs.submit(Submission(kind="sweep", spec=SWEEP))
    assert len(runs.page().runs) == 1


def test_a_folder_with_another_experiment_is_not_taken(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec, run_id="a"))
    folder = folder_of(control.store.get("a"))
    job_of(control.store.get("a"), _attempt(control, "a"), control.settings)
    folder.storage.write("attempts/000001.json", b"{}")
    RunFolder(run.storage, "b").storage.write("spec.yaml", folder.storage.read("spec.yaml"))
    RunFolder(run.storage, "b").storage.write("attempts/000001.json", b"{}")
    with pytest.raises(UserError, match="another experiment"):
        runs.submit(Submission(spec=spec, run_id="b", overrides=["train.epochs=9"]))
    assert runs.submit(Submission(spec=spec, run_id="b")).id == "b"


def test_a_project_sees_its_own_runs_only(control: Control, runs: Runs, spec: str) -> None:
    runs.submit(Submission(spec=spec, run_id="theirs", project="theirs"))
    mine = control.service(caller("ben", "mine")).runs
    assert mine.submit(Submission(spec=spec, run_id="ours")).project == "mine"
    assert [run.id for run in mine.page().runs] == ["ours"]
    assert mine.page(Wanted(project="theirs")).runs == []
    for ask in (mine.show, mine.events, mine.stop, mine.resume, mine.fork, mine.delete, mine.log, mine.checkpoints):
        with pytest.raises(UnknownRunError):
            ask("theirs")
    with pytest.raises(UserError, match="for project mine only"):
        mine.submit(Submission(spec=spec, project="theirs"))


def test_a_run_that_failed_goes_on_as_the_same_experiment_only(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec))
    with pytest.raises(TransitionError):
        runs.resume(run.id)
    to_its_end(control, run.id)
    with pytest.raises(UserError, match="another experiment"):
        runs.resume(run.id, Change(overrides=["train.epochs=99"]))
    resumed = runs.resume(run.id, Change(overrides=["scale.cpus_per_worker=2"]))
    assert resumed.state is State.QUEUED
    assert "cpus_per_worker: 2" in runs.show(run.id).spec


def test_a_fork_begins_with_the_weights_of_a_whole_checkpoint(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec))
    with pytest.raises(UserError, match="no whole checkpoint"):
        runs.fork(run.id)
    folder = with_a_checkpoint(control, run)
    with pytest.raises(UserError, match=r"encoder\.width was 8"):
        runs.fork(run.id, Change(overrides=["encoder.width=16"]))
    fork = runs.fork(run.id, Change(overrides=["optimizer.lr=0.001"], run_id="child"))
    assert fork.lineage == {"forked_from": run.id, "weights_from": folder.url}
    command = job_of(control.store.get("child"), _attempt(control, "child"), control.settings).command
    assert command[command.index("--weights-from") + 1] == folder.url


def test_a_deleted_run_is_gone_with_its_folder_and_deleting_again_ends_the_work(
    control: Control, runs: Runs, spec: str
) -> None:
    run = runs.submit(Submission(spec=spec))
    folder = with_a_checkpoint(control, run)
    with pytest.raises(TransitionError):
        runs.delete(run.id)
    to_its_end(control, run.id)
    fork = runs.fork(run.id)
    with pytest.raises(UserError, match="about to begin with the weights"):
        runs.delete(run.id)
    runs.stop(fork.id)
    assert runs.delete(run.id).objects == 2
    assert not list(folder.storage.list())
    with_a_checkpoint(control, run)  # as if the first had been cut off
    assert runs.delete(run.id).objects == 2
    with pytest.raises(UnknownRunError, match="was deleted"):
        runs.show(run.id)
    assert [each.id for each in runs.page().runs] == [fork.id]


def test_a_log_is_read_from_the_folder_and_then_from_the_backend(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec))
    assert runs.log(run.id).attempt == 0
    _attempt(control, run.id)
    log = RunLog(folder_of(control.store.get(run.id)).storage, 1)
    log.append(0, b"one\n")
    backend = control.backends["local"]
    backend.submit(f"{run.id}-a1", Job(["sh", "-c", "printf 'one\ntwo\nhal'; exec sleep 600"]))
    try:
        first = runs.log(run.id)
        while not (second := runs.log(run.id, offset=first.next_offset)).text:
            time.sleep(0.01)
    finally:
        backend.stop(f"{run.id}-a1")
    assert (first.text, second.text, second.complete) == ("one\n", "two\n", False)
    log.append(4, b"two\nhalf\n")
    log.complete()
    last = runs.log(run.id, offset=second.next_offset)
    assert last.text == "half\n"
    assert runs.log(run.id, offset=last.next_offset).complete
    with pytest.raises(UserError, match="no attempt 7"):
        runs.log(run.id, attempt=7)


def test_a_sweep_is_stored_with_its_base_and_shows_a_board(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(kind="sweep", spec=SWEEP, base=spec, then_full=True))
    assert (run.kind, run.lineage) == ("sweep", {"then_full": True})
    command = job_of(control.store.get(run.id), _attempt(control, run.id), control.settings).command
    assert "--then-full" in command
    board = runs.board(run.id)
    assert (board.wanted, board.metric, board.trials) == (3, "valid/knn", [])
    runs.submit(Submission(spec=spec, run_id="single"))
    with pytest.raises(UserError, match="no sweep"):
        runs.board("single")
    assert [each.id for each in runs.page(Wanted(kind="sweep")).runs] == [run.id]


def test_a_plan_says_what_will_happen_and_what_changed(control: Control, runs: Runs, spec: str) -> None:
    first = runs.plan(Submission(spec=spec))
    words = {line.name: line.words for line in first.lines}
    assert words["data"].startswith("200 pictures in ")
    assert "never for" in words["tried again"]
    assert first.changes is None
    run = runs.submit(Submission(spec=spec))
    control.store.save_progress(run.id, {"pictures_per_s": 100.0, "memory_gb": 1.5})
    again = runs.plan(Submission(spec=spec, overrides=["optimizer.lr=0.5"]))
    assert again.against == run.id
    assert [change.partition(":")[0] for change in again.changes or ()] == ["optimizer.lr"]
    said = {line.name: line.words for line in again.lines}
    assert said["time"].startswith("2 s an epoch")
    assert "took 1.5 GB" in said["memory"]
    other = runs.plan(Submission(spec=spec, overrides=["encoder.width=16"]))
    assert "time" not in {line.name for line in other.lines}
    assert len(runs.page().runs) == 1


def test_data_sets_are_those_that_runs_used(runs: Runs, spec: str, shards: Path, tmp_path: Path) -> None:
    runs.submit(Submission(spec=spec))
    runs.submit(Submission(spec=spec, overrides=["train.epochs=9"]))
    runs.submit(Submission(spec=tiny_spec(tmp_path / "none")))
    found = {each.url: each for each in runs.datasets()}
    assert (found[str(shards)].pictures, found[str(shards)].runs, found[str(shards)].labelled) == (200, 2, True)
    assert found[str(tmp_path / "none")].problem


def test_tokens_of_a_project_are_for_it_only(control: Control, service: Service) -> None:
    service.tokens.issue(NewToken(name="wide", owner="ann", role="admin"))
    narrow = control.service(caller("ben", "mine")).tokens
    issued = narrow.issue(NewToken(name="n", owner="cy", project="theirs"))
    assert issued.project == "mine"
    assert [each.name for each in narrow.issued()] == ["n"]
    assert control.tokens_store.check(issued.secret) is not None
    assert narrow.revoke(issued.id)
    assert not narrow.revoke(issued.id)
    assert control.tokens_store.check(issued.secret) is None
    wide = next(each for each in service.tokens.issued() if each.name == "wide")
    assert not narrow.revoke(wide.id)
    secrets = json.dumps([entry.data for entry in control.audit.entries()])
    assert issued.secret not in secrets


def test_who_sees_one_project_takes_no_folder_that_was_there_before(
    control: Control, runs: Runs, spec: str, tmp_path: Path
) -> None:
    mine = control.service(caller("ben", "mine")).runs
    sweep = runs.submit(Submission(kind="sweep", spec=SWEEP, base=spec, run_id="theirs"))
    full = RunFolder(sweep.storage, "theirs-full")
    with_a_checkpoint(control, sweep.model_copy(update={"id": "theirs-full"}))
    by_hand = RunFolder(sweep.storage, "by-hand")
    by_hand.storage.write("notes", b"n")
    for asked in ({"run_id": "theirs-full"}, {"run_id": "theirs-full", "kind": "sweep"}):
        with pytest.raises(RunExistsError):
            mine.submit(Submission.model_validate({"spec": SWEEP if "kind" in asked else spec, "base": spec, **asked}))
    for asked in ({"run_id": "by-hand"}, {"run_id": "by-hand", "kind": "sweep"}):
        with pytest.raises(UserError, match="holds another experiment, or something else") as told:
            mine.submit(Submission.model_validate({"spec": SWEEP if "kind" in asked else spec, "base": spec, **asked}))
        assert sweep.storage not in str(told.value)
    assert full.storage.exists("checkpoints/step-000000000004/manifest.json")
    assert by_hand.storage.exists("notes")


def test_a_run_that_never_had_a_job_is_deleted_without_touching_the_folder(runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec))
    folder = RunFolder(run.storage, run.id)
    folder.storage.write("notes", b"n")
    runs.stop(run.id)
    assert runs.delete(run.id).objects == 0
    assert folder.storage.exists("notes")


def test_what_an_earlier_attempt_left_is_not_told_as_the_last_ones_end(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(spec=spec))
    to_its_end(control, run.id)
    left = {"status": "failed", "exit_code": 2, "error": "bad pictures", "hint": "", "submission": f"{run.id}-a1"}
    RunFolder(run.storage, run.id).storage.write("outcome.json", json.dumps(left).encode())
    outcome = runs.show(run.id).outcome
    assert outcome is not None
    assert outcome["error"] == "bad pictures"
    runs.resume(run.id)
    to_its_end(control, run.id)
    assert runs.show(run.id).outcome is None


def test_submissions_of_one_moment_get_ids_of_their_own(control: Control, spec: str) -> None:
    start = threading.Barrier(4)

    def submit(_: int) -> str:
        start.wait()
        return control.service(caller()).runs.submit(Submission(spec=spec)).id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(submit, range(4)))) == 4


def test_a_sweep_whose_budget_is_used_up_goes_on_with_a_larger_one(control: Control, runs: Runs, spec: str) -> None:
    run = runs.submit(Submission(kind="sweep", spec=SWEEP, base=spec, overrides=["budget.wall_time=1h"]))
    to_its_end(control, run.id)
    with pytest.raises(UserError, match="another experiment"):
        runs.resume(run.id, Change(overrides=["objective.mode=min"]))
    assert runs.resume(run.id, Change(overrides=["budget.wall_time=9h", "trials=5"])).state is State.QUEUED
    assert runs.board(run.id).wanted == 5


def _attempt(control: Control, run_id: str):
    """The run's first attempt, as the leader stores it."""
    run = control.store.get(run_id)
    control.store.move(run, Signal.BEGIN, words="w", actor="test", backend="local")
    return control.store.attempts(run_id)[-1]
