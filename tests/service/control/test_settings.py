"""Where the parts of the service find each other, and what is told of a mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from service.backends.configured import configured
from service.settings import Settings


def test_without_a_word_everything_is_below_home(tmp_path: Path) -> None:
    settings = Settings.from_environment({"RECO_HOME": str(tmp_path)})
    assert settings.database == f"sqlite:///{tmp_path}/service.db"
    assert settings.storage == f"{tmp_path}/runs"
    assert list(configured(settings)) == ["local"]


def test_a_job_server_takes_new_attempts_and_old_ones_stay_where_they_began(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-of-ray\n")
    settings = Settings.from_environment(
        {"RECO_HOME": str(tmp_path), "RECO_RAY_JOBS": "http://head:8265", "RAY_AUTH_TOKEN_PATH": str(token)}
    )
    assert (settings.backend, settings.ray_token) == ("ray", "secret-of-ray")
    assert list(configured(settings)) == ["ray", "local"]
    assert "secret-of-ray" not in repr(settings)


def test_each_backend_says_where_its_jobs_are(tmp_path: Path) -> None:
    told = {"RECO_HOME": str(tmp_path), "RECO_RAY_JOBS": "http://head:8265/"}
    places = {name: each.place for name, each in configured(Settings.from_environment(told)).items()}
    assert places == {"ray": "ray:http://head:8265", "local": f"local:{tmp_path}/jobs"}
    named = configured(Settings.from_environment({**told, "RECO_BACKEND_PLACE": "ray:big"}))
    assert {name: each.place for name, each in named.items()} == {"ray": "ray:big", "local": f"local:{tmp_path}/jobs"}


def test_a_place_is_the_same_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"RECO_HOME": "h", "RECO_STORAGE": "runs"}).storage == f"{tmp_path}/runs"
    assert Settings.from_environment({"RECO_HOME": "h", "RECO_STORAGE": "s3://b/runs/"}).storage == "s3://b/runs"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("sqlite:///runs.db", "sqlite:///{}/runs.db"),
        ("sqlite+pysqlite:///kept/runs.db?timeout=5", "sqlite+pysqlite:///{}/kept/runs.db?timeout=5"),
        ("sqlite:////kept/runs.db", "sqlite:////kept/runs.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("postgresql://reco@host/runs", "postgresql://reco@host/runs"),
    ],
)
def test_a_database_is_the_same_from_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"RECO_HOME": "h", "RECO_DATABASE": said}).database == meant.format(tmp_path)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RECO_BACKEND": "slurm"}, "no backend"),
        ({"RECO_BACKEND": "ray"}, "RECO_RAY_JOBS"),
        ({"RECO_BACKEND": "kuberay"}, "RECO_KUBERAY_TEMPLATE"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "token of Ray"),
    ],
)
def test_a_mistake_is_told_with_what_to_change(variables: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        Settings.from_environment(variables)
    assert raised.value.hint
