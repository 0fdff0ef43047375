"""What the API puts up with: size, time and number of requests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.api.rate import RateLimit
from service.contract.messages import LONGEST_SPEC
from tests.service.api.serving import QUICK, SPEC, Api, open_api


class Seconds:
    """A clock in seconds that a test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_a_minutes_worth_passes_at_once_and_then_as_many_as_come_back() -> None:
    clock = Seconds()
    limit = RateLimit(6, clock=clock)
    assert [limit.take("a") for _ in range(6)] == [0.0] * 6
    assert limit.take("a") == pytest.approx(10.0)
    assert limit.take("b") == 0.0
    clock.at = 9.9
    assert limit.take("a") == pytest.approx(0.1)
    clock.at = 10.0
    assert [limit.take("a"), limit.take("a")] == [0.0, pytest.approx(10.0)]
    clock.at = 1000.0
    assert [limit.take("a") for _ in range(7)] == [0.0] * 6 + [pytest.approx(10.0)]


def test_a_limit_forgets_who_asked_longest_ago() -> None:
    limit = RateLimit(1, clock=Seconds(), most=2)
    assert [limit.take(each) for each in ("a", "b", "c")] == [0.0] * 3
    assert limit.take("c") > 0.0
    assert limit.take("a") == 0.0


def test_no_limit_lets_everything_pass() -> None:
    limit = RateLimit(0, clock=Seconds())
    assert {limit.take("a") for _ in range(1000)} == {0.0}


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Api]:
    with open_api(tmp_path / "home", replace(QUICK, per_minute=3, anonymous_per_minute=5, timeout_s=0.3)) as api:
        yield api


def test_a_token_that_asks_too_often_is_told_when_to_come_back(strict: Api) -> None:
    secrets = [strict.secret("viewer"), strict.secret("runner")]
    answers = [_me(strict, secrets[0]) for _ in range(5)]
    assert [each.status_code for each in answers] == [200] * 3 + [429] * 2
    assert answers[-1].json()["code"] == "TooManyRequestsError"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert _me(strict, secrets[1]).status_code == 200


def test_who_guesses_tokens_is_stopped_before_the_database_is_asked(strict: Api) -> None:
    good = strict.secret("viewer")
    assert _me(strict, good).status_code == 200
    answers = [_me(strict, f"reco_{number}") for number in range(8)]
    assert [each.status_code for each in answers] == [401] * 4 + [429] * 4
    assert _me(strict, good).status_code == 200  # whose token is known does not wait for the others


def test_a_token_that_was_good_is_asked_about_again_although_strangers_have_used_up_its_address(tmp_path: Path) -> None:
    settings = replace(QUICK, anonymous_per_minute=5, token_cache_s=0.0)  # each request is asked about anew
    with open_api(tmp_path / "home", settings) as api:
        good, ended = api.secret("viewer"), api.secret("runner")
        assert [_me(api, each).status_code for each in (good, ended)] == [200, 200]
        answers = [_me(api, f"reco_{number}") for number in range(5)]
        assert answers[-1].status_code == 429
        assert {_me(api, good).status_code for _ in range(10)} == {200}
        [token] = [each for each in api.control.tokens_store.list() if each.role == "runner"]
        api.control.tokens_store.revoke(token.id)
        # One that turns out to have ended is no better than a guess from then on.
        assert [_me(api, ended).status_code for _ in range(2)] == [401, 429]


def test_a_revocation_locks_nobody_else_out(tmp_path: Path) -> None:
    with open_api(tmp_path / "home", replace(QUICK, anonymous_per_minute=3)) as api:
        good, admin = api.secret("viewer"), api.secret("admin")
        assert [_me(api, each).status_code for each in (good, admin)] == [200, 200]
        [token] = [each for each in api.control.tokens_store.list() if each.role == "viewer"]
        assert [_me(api, "reco_guess").status_code for _ in range(2)] == [401, 429]
        other = api.control.tokens_store.issue(name="other", owner="other", role="viewer")[1]
        assert api.ask("DELETE", f"/v1/tokens/{other.id}", admin).status_code == 204
        assert _me(api, good).status_code == 200
        assert api.ask("DELETE", f"/v1/tokens/{token.id}", admin).status_code == 204
        assert _me(api, good).status_code == 401


def test_health_is_never_limited(strict: Api) -> None:
    assert {strict.ask("GET", "/health/live").status_code for _ in range(20)} == {200}


def test_a_body_that_says_it_is_too_large_is_not_read(api: Api) -> None:
    with api.client("runner") as client:
        answer = client.post("/v1/runs", content=b"x" * (2 << 20) + b"x")
        assert (answer.status_code, answer.json()["code"]) == (413, "TooLargeError")
        assert client.get("/v1/me").status_code == 200
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nAuthorization: Bearer %s\r\n\r\n"
    with _connection(api) as connection:
        connection.sendall(head % api.secret("runner").encode())
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]


def test_a_body_in_parts_is_cut_off_where_it_becomes_too_large(api: Api) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * (1 << 20)

    with api.client("runner") as client:
        answer = client.post("/v1/runs", content=parts(), headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "TooLargeError")


def test_the_largest_spec_is_not_too_large(api: Api) -> None:
    with api.client("runner") as client:
        spec = SPEC + "#" * (LONGEST_SPEC - len(SPEC))
        assert client.post("/v1/runs", json={"spec": spec}).status_code == 201
        assert client.post("/v1/runs", json={"spec": spec + "#"}).status_code == 422


def test_a_body_that_never_comes_ends_the_request(strict: Api) -> None:
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nAuthorization: Bearer %s\r\n\r\n{"
    with _connection(strict) as connection:
        connection.sendall(head % strict.secret("runner").encode())
        answer = connection.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"SlowRequestError" in answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b'{"spec": 1}',
        b'{"spec": "a", "spice": 1}',
        b"\xff\xfe",
        b'{"spec": "\\ud800"}',
    ],
)
def test_a_body_that_is_no_submission_is_a_problem(shared: Api, body: bytes) -> None:
    with shared.client("runner") as client:
        answer = client.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def _me(api: Api, secret: str) -> httpx.Response:
    return api.ask("GET", "/v1/me", headers={"Authorization": f"Bearer {secret}"})


def _connection(api: Api) -> socket.socket:
    url = httpx.URL(api.url)
    connection = socket.create_connection((url.host, url.port or 0))
    connection.settimeout(20)
    return connection
