"""`reco tokens` as a user meets it, on the machine of the service and over its API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner, Result

from service.cli.main import app
from service.control.control import Control
from service.settings import Settings
from tests.service.client.live import Api, serving


class Reco(Protocol):
    def __call__(self, *arguments: str) -> Result: ...


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Control(Settings.from_environment({"RECO_HOME": str(tmp_path)})) as control, serving(control) as api:
        yield api


@pytest.fixture
def reco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reco:
    monkeypatch.delenv("RECO_API", raising=False)
    monkeypatch.setenv("RECO_HOME", str(tmp_path))
    monkeypatch.setenv("RECO_USER", "ann")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["tokens", *arguments])

    return run


def test_only_the_secret_is_on_stdout_and_it_opens_the_api(
    reco: Reco, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reco("create", "ci", "--role", "admin", "--days", "7")
    assert made.exit_code == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("reco_")
    assert "\n" not in secret
    assert "admin of all projects, as ann, until 20" in made.stderr

    monkeypatch.setenv("RECO_API", api.url)
    monkeypatch.setenv("RECO_TOKEN", secret)
    second = reco("create", "laptop", "--role", "runner", "--project", "photos", "--days", "0", "--json")
    told = json.loads(second.stdout)
    assert (told["owner"], told["role"], told["project"], told["expires"]) == ("ann", "runner", "photos", None)
    names = [row["name"] for row in json.loads(reco("list", "--json").stdout)]
    assert names == ["ci", "laptop"]
    monkeypatch.setenv("RECO_TOKEN", told["secret"])
    refused = reco("list")
    assert refused.exit_code == 2
    assert "role admin" in refused.stderr


def test_a_list_shows_no_secret_and_what_has_ended_only_if_asked(reco: Reco) -> None:
    secret = reco("create", "old", "--owner", "ben").stdout.strip()
    old = json.loads(reco("list", "--json").stdout)[0]
    assert reco("revoke", old["id"]).stdout == f"✓ {old['id']} is revoked\n"
    reco("create", "new")
    shown = reco("list").stdout
    assert "new" in shown
    assert "ben" not in shown
    everything = reco("list", "--all").stdout
    assert f"revoked {old['created'][:4]}" in everything
    assert old["prefix"] in everything
    assert secret not in everything


def test_revoking_what_is_not_there_is_an_error_that_says_so(reco: Reco) -> None:
    done = reco("revoke", "0123456789abcdef")
    assert done.exit_code == 2
    assert "there is no token 0123456789abcdef that could be revoked" in done.stderr
    assert "reco tokens list --all" in done.stderr


def test_without_any_token_it_says_how_to_make_one(reco: Reco) -> None:
    assert "reco tokens create NAME" in reco("list").stdout


def test_what_cannot_be_is_refused_before_anything_is_made(reco: Reco) -> None:
    for wrong in (["x", "--role", "king"], ["x", "--days", "-1"], ["x", "--project", "a/b"], [""]):
        assert reco("create", *wrong).exit_code == 2
    assert json.loads(reco("list", "--all", "--json").stdout) == []
