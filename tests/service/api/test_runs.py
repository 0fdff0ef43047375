"""Runs over HTTP: what goes in comes out, once, page by page, whatever characters are in it."""

from __future__ import annotations

import threading
from urllib.parse import quote

import httpx
import pytest

from service.contract.messages import RunDetails, RunPage, RunView
from service.runs.states import State
from tests.service.api.serving import SPEC, Api


def submit(client: httpx.Client, run_id: str | None = None, key: str | None = None, **more: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/runs", json={"spec": SPEC, "run_id": run_id, **more}, headers=headers)


def test_a_submitted_run_is_stored_and_shown(api_on_each: Api) -> None:
    with api_on_each.client("runner", "vision") as client:
        made = submit(client, "photos-1", overrides=["train.epochs=9"])
        assert made.status_code == 201
        assert made.headers["location"] == "/v1/runs/photos-1"
        shown = RunDetails.model_validate_json(client.get("/v1/runs/photos-1").text)
        assert (shown.state, shown.project, shown.owner) == (State.QUEUED, "vision", "runner-vision")
        assert "epochs: 9" in shown.spec
        assert RunView.model_validate_json(made.text).spec_hash == shown.spec_hash
        assert [each["kind"] for each in client.get("/v1/runs/photos-1/events").json()] == ["created"]
        assert submit(client, "photos-1").json()["code"] == "RunExistsError"


def test_a_request_that_is_sent_again_with_its_key_is_carried_out_once(api_on_each: Api) -> None:
    with api_on_each.client("runner") as client:
        first, second = submit(client, key="k-1"), submit(client, key="k-1")
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        other = submit(client, key="k-1", overrides=["train.epochs=10"])
        assert (other.status_code, other.json()["code"]) == (422, "KeyReusedError")
        assert len(client.get("/v1/runs").json()["runs"]) == 1


def test_many_requests_at_once_with_one_key_make_one_run(api: Api) -> None:
    answers: list[httpx.Response] = []

    def send() -> None:
        with api.client("runner") as client:
            answers.append(submit(client, key="same"))

    api.secret("runner")
    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.status_code for each in answers} == {201}
    assert len({each.json()["id"] for each in answers}) == 1


@pytest.mark.parametrize("key", ["", "k" * 201, "a b"])
def test_a_key_that_is_none_is_refused(shared: Api, key: str) -> None:
    with shared.client("runner") as client:
        assert submit(client, key=key).status_code == 422


def test_pages_follow_one_another_by_their_links(api: Api, admin: httpx.Client) -> None:
    for number in range(7):
        api.run(f"run-{number}", State.FAILED if number % 2 else State.QUEUED)
        api.clock.pass_time(1)
    address, seen = "/v1/runs?limit=2&state=queued&name=photo*", []
    while address:
        answer = admin.get(address)
        page = RunPage.model_validate_json(answer.text)
        seen += [run.id for run in page.runs]
        address = answer.links.get("next", {}).get("url", "")
        assert bool(address) == (page.next is not None)
    assert seen == ["run-6", "run-4", "run-2", "run-0"]


def test_the_first_page_counts_what_fits(api: Api, admin: httpx.Client) -> None:
    for state in State:
        api.run(f"run-{state}", state)
    found = RunPage.model_validate_json(admin.get("/v1/runs", params={"limit": 3}).text)
    assert found.counts == dict.fromkeys(State, 1)
    some = admin.get("/v1/runs", params={"state": ["failed", "running"]}).json()
    assert {run["id"] for run in some["runs"]} == {"run-failed", "run-running"}
    assert RunPage.model_validate_json(admin.get(f"/v1/runs?after={found.next}").text).counts is None


def test_sweeps_are_the_runs_of_that_kind(api: Api, admin: httpx.Client) -> None:
    api.run("one")
    api.run("many", kind="sweep")
    assert [run["id"] for run in admin.get("/v1/sweeps").json()["runs"]] == ["many"]
    assert [run["id"] for run in admin.get("/v1/runs", params={"kind": "run"}).json()["runs"]] == ["one"]


def test_a_parameter_that_there_is_not_is_refused_with_what_was_meant(admin: httpx.Client) -> None:
    answer = admin.get("/v1/runs", params={"stat": "failed"})
    assert (answer.status_code, answer.json()["code"]) == (422, "UnknownParameterError")
    assert answer.json()["hint"] == "Did you mean `state`?"
    assert admin.post("/v1/runs/one/stop?force=1").status_code == 422


def test_a_cursor_that_no_page_gave_out_is_refused(admin: httpx.Client) -> None:
    for cursor in ("x", "WzEsMl0=", "%00", "\u00e9"):
        assert admin.get("/v1/runs", params={"after": cursor}).status_code in (400, 422)


def test_words_of_a_query_are_only_words(api_on_each: Api) -> None:
    api_on_each.run("one")
    with api_on_each.client() as client:
        for words in (
            "'; DROP TABLE runs; --",
            '" OR 1=1 --',
            "%",
            "_",
            "\\",
            "photos' OR 'a'='a",
            "\u202e",
            "a" * 200,
        ):
            for name in ("name", "owner"):
                assert client.get("/v1/runs", params={name: words}).json()["runs"] == [], words
            assert client.get("/v1/audit", params={"actor": words}).json()["entries"] == [], words
        assert len(client.get("/v1/runs").json()["runs"]) == 1


def test_a_character_0_is_refused_by_both_databases(api_on_each: Api) -> None:
    with api_on_each.client() as client:
        assert client.get("/v1/runs?name=a%00b").status_code == 400
        made = client.post("/v1/tokens", json={"name": "a\0b", "owner": "o"})
        assert made.status_code in (201, 422)
        assert client.get("/v1/runs").status_code == 200


@pytest.mark.parametrize(
    "run_id", ["../../etc/passwd", "..", "a/../b", "a\\b", ".hidden", "a b", "-rf", "a" * 200, "a\nb"]
)
def test_an_id_is_no_path(shared: Api, run_id: str) -> None:
    with shared.client("admin") as client:
        address = f"/v1/runs/{quote(run_id, safe='')}"
        assert client.get(address).status_code in (404, 422)
        assert client.get(f"{address}/log").status_code in (404, 422)
        assert client.delete(address).status_code in (404, 422)
        made = submit(client, run_id)
        assert (made.status_code, made.json()["errors"][0]["path"]) == (422, "body.run_id")


def test_every_mistake_of_a_spec_is_told_with_its_place(admin: httpx.Client) -> None:
    answer = admin.post("/v1/runs", json={"spec": SPEC.replace("epochs: 8", "epochs: 0, sed: 1")})
    assert (answer.status_code, answer.json()["code"]) == (422, "SpecError")
    assert {each["path"] for each in answer.json()["errors"]} == {"train.epochs", "train.sed"}
    assert {each["line"] for each in answer.json()["errors"]} == {5}


def test_a_run_is_stopped_resumed_and_deleted(api: Api, admin: httpx.Client) -> None:
    api.run("one", State.RUNNING)
    assert admin.post("/v1/runs/one/stop").json()["state"] == "stopping"
    assert admin.post("/v1/runs/one/stop").json()["state"] == "stopping"
    assert admin.delete("/v1/runs/one").json()["code"] == "TransitionError"
    api.run("two", State.FAILED)
    assert admin.post("/v1/runs/two/resume", json={"overrides": ["train.epochs=7"]}).status_code == 422
    assert admin.post("/v1/runs/two/resume").json()["state"] == "queued"
    assert admin.post("/v1/runs/two/resume").status_code == 409
    api.run("three", State.SUCCEEDED)
    assert admin.post("/v1/runs/three/fork").status_code == 422  # there is no checkpoint
    assert admin.delete("/v1/runs/three").json() == {"run_id": "three", "objects": 0, "bytes": 0}
    assert admin.get("/v1/runs/three").status_code == 404
    done = [entry["action"] for entry in admin.get("/v1/audit").json()["entries"]]
    assert done[:3] == ["run.delete", "run.resume", "run.stop"]


def test_a_log_is_read_in_parts(api: Api, admin: httpx.Client) -> None:
    run = api.run("one", State.FAILED)
    folder = api.control.settings.home / "runs" / run.id / "logs" / "a1"
    folder.mkdir(parents=True)
    (folder / "part-000000000000.log").write_bytes(b"")
    assert admin.get("/v1/runs/one/log").json()["attempt"] == 1
    assert admin.get("/v1/runs/one/log", params={"attempt": 9}).status_code == 422
    for wrong in ({"attempt": 0}, {"offset": -1}, {"offset": 10**30}):
        assert admin.get("/v1/runs/one/log", params=wrong).status_code == 422


def test_the_audit_is_read_page_by_page(api: Api, admin: httpx.Client) -> None:
    for number in range(5):
        api.control.audit.add("ann", "test", f"thing-{number}")
    first = admin.get("/v1/audit", params={"actor": "ann", "limit": 3}).json()
    rest = admin.get("/v1/audit", params={"actor": "ann", "limit": 3, "before": first["next"]}).json()
    assert [each["target"] for each in first["entries"] + rest["entries"]] == [f"thing-{n}" for n in (4, 3, 2, 1, 0)]
    assert rest["next"] is None
