"""The event stream: every event once and in order, wherever it is cut off, and an end when the run has ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from service.api.events import Streams
from service.contract.messages import RunView
from service.runs.records import Ending
from service.runs.states import Signal, State
from tests.service.api.serving import ADMIN, QUICK, Api, open_api


@dataclass(frozen=True)
class Message:
    event: str
    id: str | None
    data: dict[str, object]


def messages(client: httpx.Client, run_id: str, after: str | None = None) -> Iterator[Message]:
    """What a stream tells until it ends."""
    headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
    with client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        found: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                found[name] = value
            elif "data" in found:
                yield Message(found.get("event", ""), found.get("id"), json.loads(found["data"]))
                found = {}
            else:
                found = {}


def numbers(told: list[Message]) -> list[int]:
    return [int(each.id) for each in told if each.event == "event" and each.id is not None]


def test_a_stream_of_a_run_that_has_ended_tells_all_and_ends(api_on_each: Api) -> None:
    run = api_on_each.run("one", State.SUCCEEDED)
    with api_on_each.client("viewer") as client:
        told = list(messages(client, "one"))
        listed = client.get("/v1/runs/one/events").json()
    assert numbers(told) == list(range(1, run.version + 1))
    assert [each.data for each in told if each.event == "event"] == listed
    assert told[-1].event == "end"
    assert told[-1].data["state"] == "succeeded"


def test_a_stream_goes_on_where_it_was_cut_off(api: Api) -> None:
    run = api.run("one", State.SUCCEEDED)
    with api.client("viewer") as client:
        for last in range(run.version + 1):
            assert numbers(list(messages(client, "one", str(last)))) == list(range(last + 1, run.version + 1))


def test_no_event_is_lost_or_doubled_while_a_run_changes_and_streams_break(api: Api) -> None:
    api.run("one", State.RUNNING)
    heard: list[int] = []

    def write() -> None:
        for number in range(60):
            api.control.store.note("one", f"note {number}", actor="test")
        run = api.control.store.get("one")
        api.control.store.move(run, Signal.SUCCEEDED, words="done", actor="test", ending=Ending())

    writer = threading.Thread(target=write)
    writer.start()
    ended = False
    with api.client("viewer") as client:
        while not ended:
            for count, message in enumerate(messages(client, "one", str(heard[-1]) if heard else None)):
                if message.event == "event":
                    heard.append(int(message.id or 0))
                ended = message.event == "end"
                if count == 6:
                    break  # the connection is cut
    writer.join()
    assert heard == list(range(1, api.control.store.get("one").version + 1))


def test_what_happens_between_two_looks_is_not_passed_over(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    store, look, words = api.control.store, Streams._view, ["one", "two", "three"]
    api.run("one", State.RUNNING)

    def look_after_something_happened(streams: Streams, run_id: str) -> RunView:
        if words:
            store.note(run_id, words.pop(0), actor="test")
        elif not store.get(run_id).state.is_final:
            store.move(store.get(run_id), Signal.SUCCEEDED, words="done", actor="test", ending=Ending())
        return look(streams, run_id)

    monkeypatch.setattr(Streams, "_view", look_after_something_happened)
    with api.client("viewer") as client:
        told = list(messages(client, "one"))
    assert numbers(told) == list(range(1, store.get("one").version + 1))
    assert told[-1].event == "end"


def test_progress_is_told_without_an_id(api: Api) -> None:
    api.run("one", State.RUNNING)
    told: list[Message] = []
    with api.client("viewer") as client:
        for message in messages(client, "one"):
            if message.event == "event":
                continue
            told.append(message)
            if len(told) == 1:
                api.control.store.save_progress("one", {"phase": "training", "step": 7})
            elif len(told) == 2:
                api.control.store.stop("one", actor="test", words="enough")
                run = api.control.store.get("one")
                api.control.store.move(run, Signal.STOPPED, words="stopped", actor="test", ending=Ending())
    assert told[0].event == "run"
    assert told[1].data["progress"] == {"phase": "training", "step": 7}
    assert told[-1].event == "end"
    assert {each.id for each in told} == {None}


def test_a_run_that_goes_on_has_not_ended(api: Api) -> None:
    api.run("one", State.FAILED)
    api.control.store.resume("one", actor="test", words="again")
    with api.client("viewer") as client:
        for message in messages(client, "one"):
            if message.event != "event":
                break
    assert (message.event, message.data["state"]) == ("run", "queued")


def test_a_silent_stream_says_that_it_is_there(api: Api) -> None:
    api.run("one", State.RUNNING)
    with (
        api.client("viewer") as client,
        client.stream("GET", "/v1/runs/one/events", headers={"Accept": "text/event-stream"}) as answer,
    ):
        assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": ping"


def test_a_stream_ends_with_its_token(api: Api) -> None:
    api.run("one", State.RUNNING)
    made = api.control.service(ADMIN).tokens
    with api.client("viewer") as client:
        told = messages(client, "one")
        assert next(told).event == "event"
        assert all(made.revoke(each.id) for each in made.issued())
        assert [each for each in told if each.event == "end"] == []


def test_a_stream_of_a_deleted_run_ends(api: Api) -> None:
    api.run("one", State.FAILED)
    with api.client("admin") as client:
        client.delete("/v1/runs/one")
        answer = client.get("/v1/runs/one/events", headers={"Accept": "text/event-stream"})
        assert (answer.status_code, answer.json()["code"]) == (404, "UnknownRunError")


def test_a_number_that_no_event_had_is_no_reason_to_fail(api: Api) -> None:
    api.run("one", State.SUCCEEDED)
    with api.client("viewer") as client:
        for last in ("", "x", "-1", "1e3", "9" * 20):
            assert list(messages(client, "one", last))[-1].event == "end", last


def test_there_are_no_more_streams_than_allowed(tmp_path: Path) -> None:
    with open_api(tmp_path / "home", replace(QUICK, streams=1)) as api:
        api.run("one", State.RUNNING)
        with api.client("viewer") as client, api.client("viewer") as other:
            told = messages(client, "one")
            next(told)
            answer = other.get("/v1/runs/one/events", headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.json()["code"]) == (503, "BusyError")
            told.close()  # type: ignore[attr-defined]
