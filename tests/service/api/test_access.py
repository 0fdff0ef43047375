"""Who may do what: every route with every role, and with tokens that are none; made from the routes themselves."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest
from fastapi.routing import APIRoute

from service.api.openapi import ROUTERS
from service.api.roles import ALL_PROJECTS, LEAST, Role
from service.runs.states import State
from tests.service.api.serving import ROLES, Api, expired, open_api, revoked

ROUTES = {
    route.operation_id or route.name: route
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
}
OPEN = {"is_alive", "is_ready"}
GUARDED = sorted(ROUTES.keys() - OPEN)
_BODIES = {
    "submit_run": {"spec": "name: x"},
    "plan_run": {"spec": "name: x"},
    "promote_model": {"reference": "other", "reason": "because"},
    "roll_back_model": {"reason": "because"},
    "issue_token": {"name": "", "owner": ""},
}
_LET_IN = {404, 409, 422, 200}
"""What a caller who is let in is answered here: nothing of the requests below is there, or can be done."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with open_api(tmp_path_factory.mktemp("access") / "home") as api:
        api.run("theirs", State.FAILED, project="theirs")
        yield api


def ask(api: Api, operation: str, secret: str | None, *, run_id: str = "nothing") -> httpx.Response:
    """Call a route with a token."""
    route = ROUTES[operation]
    path = route.path.format(run_id=run_id, name="nothing", version="1", token_id="00")
    (method,) = route.methods
    return api.ask(method, path, secret, json=_BODIES.get(operation))


def test_every_route_is_in_the_table_of_roles() -> None:
    assert set(GUARDED) == set(LEAST)
    assert all(route.operation_id for route in ROUTES.values())


def test_the_table_gives_nobody_more_than_was_meant() -> None:
    changing = {name for name in GUARDED if ROUTES[name].methods != {"GET"}}
    assert {name for name, least in LEAST.items() if least is Role.VIEWER} == set(GUARDED) - changing - {
        "list_tokens",
        "list_audit",
    }
    assert {name for name, least in LEAST.items() if least is Role.PROMOTER} == {"promote_model", "roll_back_model"}
    assert {name for name, least in LEAST.items() if least is Role.ADMIN} == {
        "issue_token",
        "list_audit",
        "list_tokens",
        "revoke_token",
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", GUARDED)
def test_a_route_lets_in_its_least_role_and_those_above(
    api: Api, operation: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    answer = ask(api, operation, api.secret(role))
    if Role[role.upper()] >= LEAST[operation]:
        assert answer.status_code in _LET_IN | {503}, answer.text
        assert answer.status_code != 503 or answer.json()["code"] == "TrackingUnreachableError"
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "ForbiddenError")


@pytest.mark.parametrize("operation", GUARDED)
def test_a_route_lets_nobody_in_without_a_good_token(api: Api, operation: str) -> None:
    stranger = "reco_" + "x" * 43
    for secret in (None, "x", stranger, expired(api), revoked(api), api.secret("admin")[:-1], "\u00e9"):
        answer = ask(api, operation, secret)
        assert answer.status_code == 401, (operation, secret)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "UnauthenticatedError"


@pytest.mark.parametrize("operation", sorted(name for name in GUARDED if "{run_id}" in ROUTES[name].path))
def test_a_run_of_another_project_is_as_if_it_were_not_there(api: Api, operation: str) -> None:
    secret = api.secret("admin", "ours")
    foreign, missing = ask(api, operation, secret, run_id="theirs"), ask(api, operation, secret)
    assert foreign.status_code == missing.status_code == 404
    assert foreign.text.replace("theirs", "nothing") == missing.text


def test_lists_leave_out_what_is_of_other_projects(api: Api) -> None:
    with api.client("admin", "ours") as client:
        assert client.get("/v1/runs").json()["runs"] == []
        assert client.get("/v1/runs", params={"project": "theirs"}).json()["runs"] == []
        assert client.get("/v1/datasets").json() == []
        assert {each["project"] for each in client.get("/v1/tokens").json()} <= {"ours"}
        assert [client.get("/v1/audit").status_code] == [403] * len(ALL_PROJECTS)


def test_a_token_for_one_project_makes_none_for_another(api: Api) -> None:
    with api.client("admin", "ours") as client:
        made = client.post("/v1/tokens", json={"name": "n", "owner": "o", "role": "admin", "project": "theirs"})
        assert made.status_code == 201
        assert made.json()["project"] == "ours"


def test_health_is_open_to_everybody_and_nothing_else(api: Api) -> None:
    for path in ("/health/live", "/health/ready", "/openapi.json"):
        assert api.ask("GET", path).status_code == HTTPStatus.OK
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1/../v1/runs", "/v1//runs", "//v1/runs"):
        assert api.ask("GET", path).status_code in (303, 401, 404), path


def test_a_refusal_is_in_the_audit(api: Api) -> None:
    ask(api, "stop_run", api.secret("viewer"))
    entry = api.control.audit.entries(actor="viewer-None", limit=1)[0]
    assert (entry.action, entry.target, entry.data["role"]) == ("refused", "stop_run", "viewer")


def test_a_revoked_token_ends_at_once_here(api: Api) -> None:
    with api.client("admin") as admin:
        made = admin.post("/v1/tokens", json={"name": "n", "owner": "o"}).json()
        holder = {"Authorization": f"Bearer {made['secret']}"}
        assert admin.get("/v1/me", headers=holder).status_code == 200
        assert admin.delete(f"/v1/tokens/{made['id']}").status_code == 204
        assert admin.get("/v1/me", headers=holder).status_code == 401
        assert admin.delete(f"/v1/tokens/{made['id']}").status_code == 404


def test_a_token_expires_although_it_was_good_a_moment_ago(api: Api) -> None:
    with api.client("admin") as admin:
        made = admin.post("/v1/tokens", json={"name": "n", "owner": "o", "days": 1}).json()
        holder = {"Authorization": f"Bearer {made['secret']}"}
        assert admin.get("/v1/me", headers=holder).json()["role"] == "viewer"
        before = api.clock.at
        api.clock.pass_time(24 * 3600)
        assert admin.get("/v1/me", headers=holder).status_code == 401
        api.clock.at = before


def test_a_secret_is_told_once(api: Api) -> None:
    with api.client("admin") as admin:
        made = admin.post("/v1/tokens", json={"name": "n", "owner": "o"}).json()
        assert made["secret"].startswith(made["prefix"])
        assert made["secret"] not in admin.get("/v1/tokens").text + admin.get("/v1/audit").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "HERE"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": "HERE"}, 404),
    ],
)
def test_a_cookie_changes_something_only_from_our_own_page(api: Api, headers: dict[str, str], status: int) -> None:
    sent = {name: api.url if value == "HERE" else value for name, value in headers.items()}
    cookies = {"Cookie": f"theme=dark; reco_token={api.secret('admin')}"}
    assert api.ask("GET", "/v1/me", headers=cookies | sent).status_code == 200
    assert api.ask("POST", "/v1/runs/nothing/stop", headers=cookies | sent).status_code == status


@pytest.mark.parametrize("odd", ["a[b]=1", 'prefs={"x": 1, "y": [2]}', "a b=c", "=x", 'q="open'])
def test_odd_cookies_of_other_applications_do_not_hide_ours(api: Api, odd: str) -> None:
    cookies = {"Cookie": f"{odd}; reco_token={api.secret('viewer')}"}
    assert api.ask("GET", "/v1/me", headers=cookies).status_code == 200
