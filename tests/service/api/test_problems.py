"""Errors: always a problem, never a secret, and of our own mistakes only an id."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from jobs.errors import RecoError, UserError
from jobs.storage import UnreachableError
from jobs.tracking.errors import TrackingUnreachableError, UnknownModelError
from jobs.tracking.history import OvertakenError
from service.api.errors import BusyError, ForbiddenError, TooManyRequestsError, UnauthenticatedError
from service.api.messages import Problem
from service.api.problems import problem_of
from service.models.registry import RefusedError
from service.runs.errors import ConflictError, KeyReusedError, RunExistsError, StoreError, UnknownRunError
from service.runs.listing import CursorError
from service.runs.states import State
from tests.service.api.serving import QUICK, SPEC, Api, open_api


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnauthenticatedError("x"), 401),
        (ForbiddenError("x"), 403),
        (UnknownRunError("x"), 404),
        (UnknownModelError("x"), 404),
        (RunExistsError("x"), 409),
        (ConflictError("x"), 409),
        (RefusedError("x"), 409),
        (OvertakenError("x"), 409),
        (KeyReusedError("x"), 422),
        (CursorError("x"), 422),
        (UserError("x"), 422),
        (TooManyRequestsError("x", wait_s=2.1), 429),
        (StoreError("x"), 503),
        (UnreachableError("x"), 503),
        (TrackingUnreachableError("x"), 503),
        (BusyError("x"), 503),
        (RecoError("x"), 500),
    ],
)
def test_each_kind_of_error_has_its_status(error: RecoError, status: int) -> None:
    answer = problem_of(error)
    told = Problem.model_validate_json(bytes(answer.body))
    assert (answer.status_code, told.status, told.code) == (status, status, type(error).__name__)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PATCH", "/v1/runs", 405),
        ("GET", "/v1/runs?limit=0", 422),
        ("GET", "/v1/runs?state=asleep", 422),
        ("GET", "/v1/runs/missing", 404),
        ("DELETE", "/v1/tokens/ff", 404),
        ("GET", "/v1/models/a%2Fb", 404),
        ("GET", "/v1/models/..%2f..%2fetc/history", 404),
    ],
)
def test_whatever_goes_wrong_is_a_problem(shared: Api, method: str, path: str, status: int) -> None:
    with shared.client("admin") as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert Problem.model_validate_json(answer.text).status == status


def test_a_mistake_of_ours_is_told_by_an_id_only(
    api: Api, admin: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    api.run("one")
    with api.control.database.writing() as session:
        session.execute(text("UPDATE runs SET state = 'asleep'"))
    answer = admin.get("/v1/runs/one")
    told = Problem.model_validate_json(answer.text)
    assert (answer.status_code, told.code) == (500, "InternalError")
    assert "asleep" not in answer.text
    assert told.request_id is not None
    assert told.request_id == answer.headers["x-request-id"]
    assert f"request {told.request_id}, GET /v1/runs/{{run_id}}" in caplog.text


def test_a_database_that_is_away_is_worth_asking_again(
    api: Api, admin: httpx.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert api.ask("GET", "/health/ready").json()["ready"] is True
    assert admin.get("/v1/me").status_code == 200
    api.control.database.engine.dispose()
    (tmp_path / "home" / "service.db").rename(tmp_path / "gone")
    for left in (tmp_path / "home").glob("service.db*"):
        left.unlink()
    (tmp_path / "home" / "service.db").mkdir()
    answer = admin.get("/v1/runs")
    assert (answer.status_code, answer.json()["code"]) == (503, "StoreError")
    assert "retry-after" in answer.headers
    stranger = api.ask("GET", "/v1/runs", "reco_unknown")
    page = api.ask("GET", "/runs", headers={"Cookie": "reco_token=reco_unknown"})
    assert (stranger.status_code, page.status_code) == (503, 503)
    for told in (answer.text, stranger.text, page.text):
        assert "sqlite" not in told
        assert str(tmp_path) not in told
    assert f"sqlite:///{tmp_path}" in caplog.text  # what it is, is for the log
    ready = api.ask("GET", "/health/ready")
    assert (ready.status_code, ready.json()["parts"]["database"]) == (503, "unreachable")
    assert api.ask("GET", "/health/live").status_code == 200


def test_health_names_parts_that_decide_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    answer = api.ask("GET", "/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "parts": {"database": "ok", "mlflow": "unreachable", "ray": "unset"}}


def test_every_answer_has_safe_headers(api: Api, admin: httpx.Client) -> None:
    for answer in (admin.get("/v1/me"), api.ask("GET", "/v1/me"), api.ask("GET", "/health/live")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_metrics_tell_of_runs_and_requests(api: Api, admin: httpx.Client) -> None:
    api.run("one", State.RUNNING)
    api.run("two", State.FAILED)
    admin.get("/v1/runs/one")
    admin.get("/v1/runs/missing")
    admin.get("/v1/nothing/at/all")
    told = admin.get("/metrics").text.splitlines()
    assert 'reco_runs{state="running"} 1.0' in told
    assert 'reco_runs{state="queued"} 0.0' in told
    assert 'reco_requests_total{method="GET",route="/v1/runs/{run_id}",status="200"} 1.0' in told
    assert 'reco_requests_total{method="GET",route="/v1/runs/{run_id}",status="404"} 1.0' in told
    assert 'reco_requests_total{method="GET",route="none",status="404"} 1.0' in told
    assert 'reco_request_seconds_count{route="/v1/runs/{run_id}"} 2.0' in told
    assert not [line for line in told if "missing" in line or "nothing" in line]


def test_metrics_are_open_where_the_service_is_started_so(tmp_path: Path) -> None:
    with open_api(tmp_path / "home", replace(QUICK, metrics_open=True)) as api:
        assert "reco_runs" in api.ask("GET", "/metrics").text
        assert api.ask("GET", "/v1/runs").status_code == 401


def test_secrets_are_neither_in_logs_nor_in_answers(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = api.secret("runner")
    wrong = "reco_wrong-secret-of-somebody"
    heard = ""
    for sent in (secret, wrong):
        headers = {"Authorization": f"Bearer {sent}"}
        for path in ("/v1/me", "/v1/runs", "/v1/runs/missing", "/v1/nothing"):
            heard += api.ask("GET", path, headers=headers).text
            heard += api.ask("GET", path, headers={"Cookie": f"reco_token={sent}"}).text
        heard += api.ask("POST", "/v1/runs", headers=headers, json={"spec": SPEC, "token": sent}).text
        heard += api.ask("POST", "/v1/runs", headers=headers, content=f"{{{sent}").text
    ours = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    )
    for hidden in (secret, wrong):
        assert hidden not in heard
        assert hidden not in ours
