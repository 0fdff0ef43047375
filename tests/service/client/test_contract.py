"""Over HTTP the service answers what it answers without, and refuses with the same errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import RecoError
from jobs.spec import SpecError
from service.api.errors import ForbiddenError, UnauthenticatedError
from service.client import HttpService, connect
from service.contract.interface import Runs, Service, Wanted
from service.contract.messages import Change, NewToken, RunView, Submission
from service.control.control import Control
from service.control.job import folder_of
from service.runs.errors import KeyReusedError, RunExistsError, TransitionError, UnknownRunError
from service.runs.logs import RunLog
from service.runs.records import Ending
from service.runs.retry import Cause
from service.runs.states import Signal, State
from tests.service.client.live import Api


def failed(control: Control, run: RunView) -> None:
    """As if its one attempt had ended."""
    begun = control.store.move(control.store.get(run.id), Signal.BEGIN, words="begun", actor="test", backend="local")
    ending = Ending(Cause.UNKNOWN, 1, 0)
    control.store.move(begun, Signal.FAILED, words="it failed", actor="test", ending=ending)


def test_it_says_who_asks_and_where(api: Api, remote: HttpService) -> None:
    assert (remote.caller.owner, remote.caller.role, remote.where) == ("ann", "admin", api.url)
    assert remote.server_version == remote.caller.version


def test_a_submitted_run_is_the_same_on_both_sides(remote: HttpService, local: Service, spec: str) -> None:
    asked = Submission(spec=spec, run_id="same-1", project="photos", overrides=["train.epochs=7"])
    plan = remote.runs.plan(asked)
    assert plan == local.runs.plan(asked)
    run = remote.runs.submit(asked)
    assert (run.id, run.project, run.owner, run.state) == ("same-1", "photos", "ann", State.QUEUED)
    details = remote.runs.show("same-1")
    assert details == local.runs.show("same-1")
    assert "epochs: 7" in details.spec
    assert remote.runs.events("same-1") == local.runs.events("same-1")
    assert remote.runs.checkpoints("same-1") == []


def test_a_run_that_failed_goes_on_is_stopped_and_deleted(
    remote: HttpService, local: Service, control: Control, spec: str
) -> None:
    run = remote.runs.submit(Submission(spec=spec, run_id="life-1"))
    failed(control, run)
    log = RunLog(folder_of(control.store.get(run.id)).storage, 1)
    log.append(0, b"one\ntwo\n")
    chunk = remote.runs.log(run.id)
    assert chunk == local.runs.log(run.id)
    assert chunk.text == "one\ntwo\n"
    assert remote.runs.log(run.id, attempt=1, offset=4).text == "two\n"
    assert remote.runs.resume(run.id, Change(overrides=["scale.cpus_per_worker=2"])).state is State.QUEUED
    assert remote.runs.stop(run.id).state is State.CANCELLED
    deleted = remote.runs.delete(run.id)
    assert deleted.run_id == run.id
    with pytest.raises(UnknownRunError):
        remote.runs.show(run.id)


def test_pages_are_filtered_and_followed_to_the_end(remote: HttpService, local: Service, spec: str) -> None:
    for number in range(5):
        remote.runs.submit(Submission(spec=spec, run_id=f"paged-{number}", project="paged"))
    remote.runs.stop("paged-2")
    wanted = Wanted(project="paged", states=(State.QUEUED, State.RUNNING), kind="run", name="ti*", owner="ann")
    assert remote.runs.page(wanted) == local.runs.page(wanted)
    first = remote.runs.page(wanted, limit=3)
    assert first.counts is not None
    assert first.counts[State.QUEUED] == 4
    second = remote.runs.page(wanted, after=first.next, limit=3)
    assert [run.id for run in second.runs] == ["paged-0"]
    assert [run.id for run in remote.runs.every(wanted, at_once=2)] == ["paged-4", "paged-3", "paged-1", "paged-0"]


def test_data_sets_are_the_same(remote: HttpService, local: Service, spec: str) -> None:
    remote.runs.submit(Submission(spec=spec, run_id="data-1", project="data"))
    found = remote.runs.datasets("data")
    assert found == local.runs.datasets("data")
    assert [each.pictures for each in found] == [200]
    assert remote.runs.datasets("nobodys") == []


def test_tokens_are_made_listed_and_ended(api: Api, remote: HttpService) -> None:
    made = remote.tokens.issue(NewToken(name="ci", owner="ben", role="viewer", project="photos", days=3))
    with connect(api.url, made.secret) as viewer:
        assert (viewer.caller.owner, viewer.caller.project) == ("ben", "photos")
        with pytest.raises(ForbiddenError):
            viewer.runs.stop("same-1")
    assert made.id in {each.id for each in remote.tokens.issued()}
    assert remote.tokens.revoke(made.id)
    assert not remote.tokens.revoke(made.id)
    assert not remote.tokens.revoke("no/such")
    with pytest.raises(UnauthenticatedError) as raised, connect(api.url, made.secret):
        pass
    assert made.secret not in str(raised.value)
    assert "RECO_TOKEN" in str(raised.value)


REFUSED: dict[str, tuple[type[RecoError], Callable[[Runs, str], object]]] = {
    "unknown": (UnknownRunError, lambda runs, _: runs.show("nothing")),
    "impossible id": (UnknownRunError, lambda runs, _: runs.stop("a/b")),
    "climbing": (UnknownRunError, lambda runs, _: runs.delete("..")),
    "taken": (RunExistsError, lambda runs, spec: runs.submit(Submission(spec=spec, run_id="twice"))),
    "mistakes": (SpecError, lambda runs, _: runs.plan(Submission(spec="name: x\ntrain: {epochs: -1}\n"))),
    "not ended": (TransitionError, lambda runs, _: runs.resume("twice")),
    "key": (KeyReusedError, lambda runs, spec: runs.submit(Submission(spec=spec, run_id="other"), key="once")),
    "no sweep": (RecoError, lambda runs, _: runs.board("twice")),
    "no weights": (RecoError, lambda runs, _: runs.fork("twice", Change(run_id="forked"))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_the_same_error_with_the_same_words(
    name: str, remote: HttpService, local: Service, spec: str
) -> None:
    kind, act = REFUSED[name]
    if name == "unknown":  # the first of them
        remote.runs.submit(Submission(spec=spec, run_id="twice"), key="once")
    with pytest.raises(kind) as over_http:
        act(remote.runs, spec)
    with pytest.raises(kind) as without:
        act(local.runs, spec)
    assert type(over_http.value) is type(without.value)
    if name not in ("impossible id", "climbing"):  # which are not asked about over HTTP
        assert str(over_http.value) == str(without.value)


def test_a_key_that_comes_again_gets_the_run_of_the_first_time(remote: HttpService, spec: str) -> None:
    first = remote.runs.submit(Submission(spec=spec), key="k-1")
    assert remote.runs.submit(Submission(spec=spec), key="k-1") == first
    assert remote.runs.submit(Submission(spec=spec)).id != first.id


def test_a_fork_begins_with_weights(remote: HttpService, control: Control, spec: str, folder: Path) -> None:
    run = remote.runs.submit(Submission(spec=spec, run_id="origin"))
    step = folder / "origin" / "checkpoints" / "step-000000000004"
    step.mkdir(parents=True)
    (step / "state.pt").write_bytes(b"weights")
    (step / "manifest.json").write_text(
        f'{{"step": 4, "size": 7, "sha256": "0", "spec_hash": "{run.spec_hash}", "dataset_hash": "d"}}'
    )
    assert [(each.step, each.size) for each in remote.runs.checkpoints("origin")] == [(4, 7)]
    forked = remote.runs.fork("origin", Change(run_id="child", overrides=["train.epochs=3"]), key="f-1")
    assert (forked.id, forked.lineage["forked_from"]) == ("child", "origin")
