"""From what an attempt left behind to a cause, and from the cause to a decision."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.checkpoints.fence import FencedError
from jobs.errors import RecoError, UserError
from jobs.job_folder import failed
from jobs.run_folder import RunFolder
from jobs.storage import UnreachableError
from jobs.tracking.errors import TrackingUnreachableError
from service.runs.retry import POLICIES, Cause, Ended, Evidence, GiveUp, Retry, classify, decide, spent_on
from tests.service.runs.test_states import table_of


def test_the_policy_is_the_one_in_the_documentation() -> None:
    documented = {row[0]: row[1:4] for row in table_of("cause")[1:]}
    assert set(documented) == {cause.value for cause in Cause}
    for cause, policy in POLICIES.items():
        waits = (f"{policy.first_wait_s:.0f} s", f"{policy.longest_wait_s:.0f} s") if policy.again else ("-", "-")
        assert documented[cause.value] == [str(policy.again), *waits]


# What errors of `jobs/` say, word for word.
_SAID = [
    ("the loss became nan (contrast) at step 40; no checkpoint was written before.", Cause.NAN),
    ("weights became infinite or no numbers at step 8; the last good checkpoint is that of step 5.", Cause.NAN),
    ("the contrast loss exploded to 40.1, where chance is 8.3 at step 8; no checkpoint was written before.", Cause.NAN),
    ("12 pictures of epoch 0 cannot be used, more than data.bad_pictures 0.001 allows (10).", Cause.DATA),
    ("The shards were changed and indexed anew while this run reads them.", Cause.DATA),
    ("training of run r failed after 3 restarts: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
     Cause.OUT_OF_MEMORY),
    ("training of run r failed after 3 restarts: Task was killed due to the node running low on memory: OOM",
     Cause.OUT_OF_MEMORY),
    ("The loader process ended 3 times without giving a batch, last with signal 9.", Cause.OUT_OF_MEMORY),
    ("The saver process ended 3 times without a checkpoint, last with exit code -9.", Cause.OUT_OF_MEMORY),
    ("The loader process ended 3 times without giving a batch, last with exit code 1.", Cause.UNKNOWN),
    ("training of run r failed after 3 restarts: The actor is dead because its node has died.", Cause.NODE_LOST),
    ("training of run r failed after 3 restarts: The node was preempted", Cause.PREEMPTED),
    ("No answer from http://s3:9000 for s3://b/k (EndpointConnectionError).", Cause.STORAGE_OUTAGE),
    ("http://s3:9000 keeps answering SlowDown for s3://b/k.", Cause.STORAGE_OUTAGE),
    ("No batch came for 900 s; the loader waits for shard-3.tar, bytes 0-9 of s3:9000.", Cause.STORAGE_OUTAGE),
    ("MLflow is not reachable at http://t (MLFLOW_TRACKING_URI): Connection refused.", Cause.TRACKING_OUTAGE),
    ("could not finish the run: MLflow at http://t says: 503.", Cause.TRACKING_OUTAGE),
    ("no Ray cluster answers at RAY_ADDRESS=ray:6379: timed out", Cause.NODE_LOST),
    ("training of run r failed after 3 restarts: rank 1 on h (process 3) made no progress for 900 s after step 7, "
     "in phase forward", Cause.UNKNOWN),
    ("training of run oom-preempted failed after 3 restarts: something nobody has seen", Cause.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("words", "cause"), _SAID)
def test_the_words_a_run_leaves_in_its_folder_tell_the_cause(tmp_path: Path, words: str, cause: Cause) -> None:
    folder = RunFolder(f"{tmp_path}", "r")
    folder.write_failure(RecoError(words, hint="signal 9 is usually the system, short of memory."))
    failure = folder._json("failure.json")
    assert classify(Evidence(exit_code=1, failure=failure)).cause is cause
    folder.write_outcome(failed(RecoError(words)))
    diagnosis = classify(Evidence(outcome=folder.outcome()))
    assert diagnosis.cause is cause
    assert words.split("restarts: ")[-1].rstrip(".") in diagnosis.words or cause is Cause.UNKNOWN


def test_the_failure_of_a_worker_says_more_than_what_the_driver_made_of_it() -> None:
    diverged = failed(RecoError("the loss became inf (contrast) at step 4; no checkpoint was written before."))
    evidence = Evidence(exit_code=1, failure=diverged, outcome=failed(RecoError("something else")))
    assert classify(evidence).cause is Cause.NAN


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UnreachableError("gone"), Cause.STORAGE_OUTAGE),
        (TrackingUnreachableError("gone"), Cause.TRACKING_OUTAGE),
        (FencedError("taken over"), Cause.NODE_LOST),
        (UserError("no such folder"), Cause.USER_CODE),
    ],
)
def test_the_class_of_an_error_is_believed_before_its_words(error: RecoError, cause: Cause) -> None:
    evidence = Evidence(outcome=failed(error), error_class=type(error).__name__)
    assert classify(evidence).cause is cause


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (Evidence(exit_code=2), Cause.USER_CODE),
        (Evidence(exit_code=1), Cause.UNKNOWN),
        (Evidence(exit_code=-9), Cause.OUT_OF_MEMORY),
        (Evidence(exit_code=137), Cause.OUT_OF_MEMORY),
        (Evidence(exit_code=-15), Cause.PREEMPTED),
        (Evidence(exit_code=143), Cause.PREEMPTED),
        (Evidence(outcome={"status": "stopped", "exit_code": 130}), Cause.PREEMPTED),
        (Evidence(outcome={"status": "stopped", "exit_code": 130, "reason": "it was asked to"}), Cause.PREEMPTED),
        (Evidence(outcome={"status": "stopped", "reason": "budget.gpu_hours 4 is used up"}), Cause.USER_CODE),
        (Evidence(vanished=True), Cause.NODE_LOST),
        (Evidence(vanished=True, outcome=failed(UserError("a wrong path"))), Cause.USER_CODE),
        (Evidence(message="JOB_SUPERVISOR_ACTOR_DIED: the actor died"), Cause.NODE_LOST),
        (Evidence(message="JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"), Cause.NODE_LOST),
        (Evidence(message="RUNTIME_ENV_SETUP_FAILURE: pip failed"), Cause.USER_CODE),
        (Evidence(message="container was OOMKilled", exit_code=137), Cause.OUT_OF_MEMORY),
        (Evidence(message="pod evicted", exit_code=137), Cause.PREEMPTED),
        (Evidence(), Cause.UNKNOWN),
    ],
)
def test_without_words_the_way_it_ended_tells_the_cause(evidence: Evidence, cause: Cause) -> None:
    diagnosis = classify(evidence)
    assert diagnosis.cause is cause
    assert diagnosis.words.endswith(".")
    assert diagnosis.words[0].isupper()


@pytest.mark.parametrize("cause", [Cause.NAN, Cause.DATA, Cause.USER_CODE])
def test_what_trying_again_cannot_mend_is_never_tried_again(cause: Cause) -> None:
    decision = decide(cause, {})
    assert isinstance(decision, GiveUp)
    assert decision.words.startswith("Not tried again: ")


def test_the_unknown_is_tried_once() -> None:
    assert decide(Cause.UNKNOWN, {}) == Retry(60.0, "Tried again in 60 s, for the 1st of 1 times.")
    assert decide(Cause.UNKNOWN, {Cause.UNKNOWN: 1}) == GiveUp(
        "Not tried again: it was already tried once after an unexplained end, without a new checkpoint."
    )


def test_waits_double_up_to_the_longest() -> None:
    waits = [decision.after_s for spent in range(10) if isinstance(decision := decide(Cause.NODE_LOST, {Cause.NODE_LOST: spent}), Retry)]  # fmt: skip  # noqa: E501
    assert waits == [15, 30, 60, 120, 240, 480, 600, 600, 600, 600]
    assert isinstance(decide(Cause.NODE_LOST, {Cause.NODE_LOST: 10}), GiveUp)


@given(st.dictionaries(st.sampled_from(Cause), st.integers(0, 200)), st.sampled_from(Cause))
def test_one_budget_does_not_pay_for_another(spent: dict[Cause, int], cause: Cause) -> None:
    own = {cause: spent[cause]} if cause in spent else {}
    assert decide(cause, spent) == decide(cause, own)


@given(st.sampled_from(Cause))
def test_every_cause_is_given_up_in_the_end(cause: Cause) -> None:
    assert isinstance(decide(cause, {cause: POLICIES[cause].again}), GiveUp)


def test_a_newer_checkpoint_gives_all_budgets_back() -> None:
    ended = [
        Ended(Cause.UNKNOWN, 0),
        Ended(Cause.NODE_LOST, 0),
        Ended(Cause.NODE_LOST, 100),
        Ended(Cause.PREEMPTED, 100),
    ]
    assert spent_on(ended, step=100) == {Cause.NODE_LOST: 1, Cause.PREEMPTED: 1}
    assert spent_on(ended, step=150) == {}
    assert spent_on(ended[:2]) == {Cause.UNKNOWN: 1, Cause.NODE_LOST: 1}
