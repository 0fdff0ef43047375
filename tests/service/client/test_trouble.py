"""What the client does when answers are lost, the API is away, or it is asked too much: no request counts twice."""

from __future__ import annotations

import http.server
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jobs.errors import RecoError
from service.api.errors import BusyError, TooManyRequestsError
from service.client import HttpRuns, HttpService, connect
from service.client.address import Address
from service.client.errors import ApiError, ApiUnreachableError, InsecureAddressError, OtherVersionError
from service.client.http import Http
from service.client.patience import Patience
from service.contract.interface import Wanted
from service.contract.messages import Identity, NewToken, Submission
from service.control.control import Control
from service.runs.errors import StoreError
from service.runs.records import Run
from service.runs.states import Signal
from tests.service.client.live import OPEN, Api, losing_answers, serving

PATIENCE = Patience(repeats=3, first_s=8.0, longest_s=30.0, chance=lambda: 1.0)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def mortal(control: Control) -> Iterator[Api]:
    """An API of its own, for a test that ends it."""
    with serving(control) as api:
        yield api


def test_a_submission_whose_answer_is_lost_is_sent_again_and_counts_once(
    api: Api, remote: HttpService, spec: str, waits: list[float]
) -> None:
    with losing_answers(api.url, losses=3) as lossy:
        http = Http(Address.of(lossy), api.token(), patience=PATIENCE, sleep=waits.append)
        run = HttpRuns(http).submit(Submission(spec=spec, project="lossy"))
        http.close()
    assert waits == [8.0, 16.0, 30.0]
    assert [each.id for each in remote.runs.page(Wanted(project="lossy")).runs] == [run.id]


def test_what_has_no_key_is_never_sent_again(api: Api, control: Control, waits: list[float]) -> None:
    with losing_answers(api.url, losses=1) as lossy:
        http = Http(Address.of(lossy), api.token(), patience=PATIENCE, sleep=waits.append)
        new = NewToken(name="once-only", owner="ann")
        with pytest.raises(ApiUnreachableError):
            http.post("/v1/tokens", Identity, new)
        http.close()
    assert waits == []
    assert [each.name for each in control.tokens_store.list()].count("once-only") == 1


def test_an_api_that_comes_back_is_asked_again(mortal: Api, spec: str, waits: list[float]) -> None:
    def come_back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            mortal.start()

    with connect(mortal.url, mortal.token(), patience=PATIENCE, sleep=come_back) as remote:
        run = remote.runs.submit(Submission(spec=spec))
        mortal.stop()
        assert remote.runs.show(run.id).id == run.id
        assert waits == [8.0, 16.0]


def test_an_api_that_stays_away_is_told_with_its_address_and_without_the_token(mortal: Api, waits: list[float]) -> None:
    token = mortal.token()
    with connect(mortal.url, token, patience=PATIENCE, sleep=waits.append) as remote:
        mortal.stop()
        with pytest.raises(ApiUnreachableError) as raised:
            remote.runs.page()
        assert waits == [8.0, 16.0, 30.0]
        with pytest.raises(ApiUnreachableError):
            remote.runs.stop("some-run")
        assert len(waits) == 3
    assert mortal.url in str(raised.value)
    assert "connection refused" in str(raised.value)
    assert token not in str(raised.value)


def test_who_asks_too_often_waits_as_long_as_is_asked_for(control: Control, waits: list[float]) -> None:
    with serving(control, replace(OPEN, per_minute=6)) as api:
        token = api.token()
        with connect(api.url, token, patience=PATIENCE, sleep=waits.append) as remote:
            for _ in range(5):  # who it is was asked as well: that makes six
                remote.runs.page()
            with pytest.raises(TooManyRequestsError) as raised:
                remote.runs.page()
            asked = [wait - jitter for wait, jitter in zip(waits, (8.0, 16.0, 30.0), strict=True)]
            assert all(9.0 <= each <= 10.0 for each in asked), asked
            assert raised.value.wait_s >= 9.0
            with pytest.raises(TooManyRequestsError):
                remote.runs.stop("some-run")
            assert len(waits) == 3


def test_a_run_is_followed_to_its_end_though_the_api_is_started_anew(
    mortal: Api, control: Control, spec: str, waits: list[float]
) -> None:
    with connect(mortal.url, mortal.token(), patience=PATIENCE, sleep=waits.append) as remote:
        run_id = remote.runs.submit(Submission(spec=spec)).id
        numbers = []
        for event in remote.runs.follow_events(run_id):
            numbers.append(event.number)
            match event.number:
                case 1:
                    move(control, run_id, Signal.BEGIN)
                case 2:
                    mortal.stop()
                    move(control, run_id, Signal.ACCEPTED)
                    move(control, run_id, Signal.RUNNING)
                    mortal.start()
                case 4:
                    control.store.stop(run_id, actor="test", words="stop")
                    move(control, run_id, Signal.STOPPED)
        assert numbers == [1, 2, 3, 4, 5, 6]
        assert waits == [8.0]
        assert [each.number for each in remote.runs.follow_events(run_id, after=4)] == [5, 6]
        assert [each.number for each in remote.runs.events(run_id, after=1, limit=3)] == [2, 3, 4]


def test_a_server_with_too_many_streams_is_asked_again_and_then_says_so(
    control: Control, spec: str, waits: list[float]
) -> None:
    with (
        serving(control, replace(OPEN, streams=0)) as api,
        connect(api.url, api.token(), patience=PATIENCE, sleep=waits.append) as remote,
    ):
        run = remote.runs.submit(Submission(spec=spec))
        with pytest.raises(BusyError):
            list(remote.runs.follow_events(run.id))
    assert len(waits) == 3


def test_a_run_is_followed_though_the_database_is_away_for_a_while(
    api: Api, control: Control, spec: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(api.url, api.token(), patience=PATIENCE, sleep=waits.append) as remote:
        run_id = remote.runs.submit(Submission(spec=spec)).id
        control.store.stop(run_id, actor="test", words="stop")
        found, left = control.store.get, [StoreError("the database is away.")] * 2

        def get(run_id: str) -> Run:
            if left:
                raise left.pop()
            return found(run_id)

        monkeypatch.setattr(control.store, "get", get)
        assert [each.number for each in remote.runs.follow_events(run_id)] == [1, 2]
        assert waits == [8.0 + 5.0, 16.0 + 5.0]  # no sooner than the service asked for
        left += [StoreError("the database is away.")] * 9
        with pytest.raises(StoreError):
            list(remote.runs.follow_events(run_id))


@pytest.mark.parametrize(("mine", "words"), [("9.0.0", "older (0."), ("0.0.9", "newer (0.")])
def test_another_version_of_the_server_is_noted_once(
    mine: str, words: str, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    http = Http(Address.of(api.url), api.token(), patience=PATIENCE, version=mine)
    with caplog.at_level(logging.WARNING, "reco.client"):
        for _ in range(2):
            http.note_version(http.get("/v1/me", Identity).version)
    assert [words in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(OtherVersionError) as raised:
        http.get("/v1/something-new", Identity)
    assert "does not know GET /v1/something-new" in raised.value.message
    assert words in str(raised.value.hint)
    with pytest.raises(OtherVersionError, match="does not understand"):
        http.get("/v1/me", list[int])
    http.close()


def test_the_same_version_is_no_news(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "reco.client"), connect(api.url, api.token()):
        pass
    assert caplog.records == []


def test_another_kind_of_server_is_told_and_a_token_follows_no_redirect(api: Api) -> None:
    seen: list[str | None] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            if self.path == "/moved/v1/me":
                self.send_response(307)
                self.send_header("Location", f"{api.url}/v1/me?secret=1")
            else:
                self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ApiError, match="answered 404, and not as this service does"), connect(url, "reco_x"):
            pass
        with pytest.raises(ApiError, match="has moved to") as raised, connect(f"{url}/moved", "reco_x"):
            pass
        server.shutdown()
    assert seen == ["Bearer reco_x"] * 2
    assert "secret" not in str(raised.value)


def test_a_token_is_not_sent_in_the_clear_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InsecureAddressError), connect("http://192.0.2.1", "reco_x"):
        pass
    monkeypatch.setenv("RECO_INSECURE", "1")
    patience = Patience(repeats=0)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # so that nothing leaves this machine
    with pytest.raises(RecoError, match="does not answer"), connect("http://192.0.2.1", "reco_x", patience=patience):
        pass


def test_a_proxy_of_the_environment_sees_nothing_of_this_machine(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with connect(api.url, api.token()) as remote:
        assert remote.caller.owner == "ann"


def move(control: Control, run_id: str, signal: Signal) -> None:
    backend = "local" if signal is Signal.BEGIN else ""
    control.store.move(control.store.get(run_id), signal, words="as a test says", actor="test", backend=backend)
