"""What can be done from a page: by whom, and only from our own pages."""

from __future__ import annotations

import itertools
import re

import pytest

from service.runs.retry import Cause
from service.runs.states import Signal, State
from service.runs.wanted import Wanted
from tests.service.web.conftest import Site

_numbers = itertools.count()


def state(site: Site, run_id: str) -> State:
    return site.scene.control.store.get(run_id).state


def key_of(page: str) -> str:
    return re.findall(r'name="key" value="([^"]+)"', page)[0]


@pytest.fixture
def run(site: Site) -> str:
    """A run that trains."""
    run_id = f"photos-{next(_numbers)}"
    site.scene.submit(run_id, name=run_id)
    site.scene.start(run_id)
    site.scene.train(run_id, upto=0.01)
    return run_id


def called(site: Site, name: str) -> set[str]:
    """The runs of a name."""
    return {each.id for each in site.scene.control.listed.page(Wanted(name=name)).runs}


def fail(site: Site, run_id: str) -> None:
    site.scene.move(run_id, Signal.FAILED, cause=Cause.USER_CODE, step=100)


def test_stop_asks_first_and_then_stops(site: Site, run: str) -> None:
    with site.browser("runner") as client:
        assert f'href="/runs/{run}/do/stop"' in client.get(f"/runs/{run}").text
        asked = client.get(f"/runs/{run}/do/stop")
        assert (asked.status_code, state(site, run)) == (200, State.RUNNING)
        done = client.post(f"/runs/{run}/do/stop", follow_redirects=True)
    assert state(site, run) is State.STOPPING
    assert "It was asked to stop" in done.text
    assert "runner asked it to stop." in done.text
    assert f'href="/runs/{run}/do/stop"' not in done.text


def test_resume_goes_on_with_changed_resources_but_as_the_same_experiment(site: Site, run: str) -> None:
    fail(site, run)
    with site.browser("runner") as client:
        other = client.post(f"/runs/{run}/do/resume", data={"overrides": "optimizer.lr=1"})
        assert other.status_code == 409
        assert "another experiment" in other.text
        assert ">optimizer.lr=1</textarea>" in other.text
        assert state(site, run) is State.FAILED
        same = client.post(f"/runs/{run}/do/resume", data={"overrides": " scale.workers=1 \n\n"})
    assert (same.status_code, same.headers["location"]) == (303, f"/runs/{run}?done=resume")
    assert state(site, run) is State.QUEUED
    assert "workers: 1" in site.scene.control.store.get(run).spec


def test_a_form_that_is_sent_twice_makes_one_fork(site: Site, run: str) -> None:
    with site.browser("runner") as client:
        key = key_of(client.get(f"/runs/{run}/do/fork").text)
        new = f"{run}-forked"
        form = {"key": key, "overrides": "optimizer.lr=0.01", "new_id": new}
        first, second = (client.post(f"/runs/{run}/do/fork", data=form) for _ in range(2))
        assert first.headers["location"] == second.headers["location"] == f"/runs/{new}?done=fork"
        page = client.get(f"/runs/{new}").text
        again = client.post(f"/runs/{run}/do/fork", data={**form, "key": "another"})
    assert f'<a href="/runs/{run}">{run}</a>' in page
    assert again.status_code == 409
    assert f"There is a run {new} already." in again.text
    assert called(site, run) == {run, new}


def test_a_fork_may_not_read_what_the_api_lets_no_spec_name(site: Site, run: str) -> None:
    with site.browser("runner") as client:
        answer = client.post(f"/runs/{run}/do/fork", data={"overrides": "data.train=/etc"})
    assert answer.status_code == 409
    assert "the spec names what it may not" in answer.text.lower()


@pytest.mark.parametrize("new_id", ["../up", "a/b", "", "x" * 200])
def test_an_id_that_cannot_be_is_explained_and_nothing_is_made(site: Site, run: str, new_id: str) -> None:
    with site.browser("runner") as client:
        answer = client.post(f"/runs/{run}/do/fork", data={"new_id": new_id, "overrides": "nonsense=1"})
    assert answer.status_code == 409
    assert 'class="problem"' in answer.text
    assert called(site, run) == {run}


def test_delete_is_for_runs_that_have_ended(site: Site, run: str) -> None:
    with site.browser("runner") as client:
        assert client.post(f"/runs/{run}/do/delete").status_code == 409
        fail(site, run)
        answer = client.post(f"/runs/{run}/do/delete", follow_redirects=True)
        assert client.get(f"/runs/{run}").status_code == 404
    assert "Deleted, with its folder." in answer.text
    assert f"/runs/{run}" not in answer.text


@pytest.mark.parametrize("act", ["stop", "resume", "fork", "delete"])
def test_a_viewer_is_offered_nothing_and_can_do_nothing(site: Site, run: str, act: str) -> None:
    with site.browser("viewer") as client:
        assert "/do/" not in client.get(f"/runs/{run}").text
        assert client.get(f"/runs/{run}/do/{act}").status_code == 403
        refused = client.post(f"/runs/{run}/do/{act}")
    assert refused.status_code == 403
    assert "this takes the role runner, and your token has viewer." in refused.text.lower()
    assert state(site, run) is State.RUNNING
    entries = site.scene.control.audit.entries(actor="viewer", limit=2)
    assert {(each.action, each.target) for each in entries} == {("refused", f"{act}_run")}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_changes_nothing(site: Site, run: str, headers: dict[str, str]) -> None:
    with site.browser("admin") as client:
        answer = client.post(f"/runs/{run}/do/stop", headers=headers)
        out = client.post("/logout", headers=headers)
        del client.headers["Origin"]
        without = client.post(f"/runs/{run}/do/stop")
    assert {answer.status_code, out.status_code, without.status_code} == {403}
    assert state(site, run) is State.RUNNING


def test_asking_with_get_changes_nothing(site: Site, run: str) -> None:
    with site.browser("admin") as client:
        for act in ("stop", "delete", "fork"):
            client.get(f"/runs/{run}/do/{act}")
        assert client.get(f"/runs/{run}/do/launch").status_code == 422
    assert state(site, run) is State.RUNNING
    assert called(site, run) == {run}
