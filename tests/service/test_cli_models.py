"""`reco models` and `reco tracking` as a user meets them; MLflow's database stands in for its server."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Protocol

import pytest
from torch import nn
from typer.testing import CliRunner, Result

from jobs.tracking.encoders import register_encoder
from jobs.tracking.runs import open_run
from service.cli.main import app
from service.control.control import Control
from service.settings import Settings
from tests.service.client.live import serving


class Reco(Protocol):
    def __call__(self, *arguments: str, uri: str | None = None) -> Result: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "reco-home"


@pytest.fixture
def reco(home: Path, monkeypatch: pytest.MonkeyPatch) -> Reco:
    monkeypatch.delenv("RECO_API", raising=False)

    def run(*arguments: str, uri: str | None = None) -> Result:
        monkeypatch.setenv("RECO_HOME", str(home))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri or "")
        return CliRunner().invoke(app, arguments)

    return run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two versions of one encoder."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts the artifacts of a store without a server
        address = f"sqlite:///{folder / 'mlflow.db'}"
        for number in range(2):
            run = open_run(address, experiment="e", run_id=f"run-{number}", name="n", params={}, tags={})
            register_encoder(
                run,
                name="digits-encoder",
                encoder=nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                encoder_config={"name": "tiny", "stem": "cifar", "width": 4},
                preprocessing={"image_size": 8, "crop_fraction": 1.0},
                spec_yaml="name: x\ndata: {train: shards, image_size: 8}\nencoder: {name: resnet18}\n",
                dataset_hash="d1ce",
                metrics={"knn": 50.0 + 25.0 * number},
                card="A tiny encoder.",
            )
    return address


def test_list_shows_versions_newest_first(reco: Reco, uri: str) -> None:
    done = reco("models", "list", uri=uri)
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "digits-encoder" in line]
    assert [row[:2] for row in rows] == [["digits-encoder", "2"], ["digits-encoder", "1"]]
    assert "candidate" in rows[0]
    assert "candidate" not in rows[1]
    assert "75.0" in rows[0]
    assert "50.0" in rows[1]
    assert rows[0][-1] == "run-1"


def test_show_says_what_an_encoder_is_and_where_it_came_from(reco: Reco, uri: str) -> None:
    done = reco("models", "show", "digits-encoder", uri=uri)
    assert done.exit_code == 0, done.stderr
    for words in ("digits-encoder/2 (candidate)", "knn  75", "image_size", "run-1", "d1ce", "encoder.safetensors"):
        assert words in done.stdout
    content = json.loads(reco("models", "show", "digits-encoder/1", "--json", uri=uri).stdout)
    assert (content["version"], content["metrics"]) == (1, {"knn": 50.0})
    assert content["encoder"]["feature_dim"] == 4
    assert content["preprocessing"] == {"image_size": 8, "crop_fraction": 1.0}
    assert content["card"].startswith("# digits-encoder")


def test_an_unknown_model_is_one_line_and_what_to_do(reco: Reco, uri: str) -> None:
    done = reco("models", "show", "digit-encoder", uri=uri)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "no encoder 'digit-encoder' is registered" in done.stderr
    assert "Did you mean 'digits-encoder'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_over_the_api_everything_is_the_same(reco: Reco, uri: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (
        ("list",),
        ("list", "--json"),
        ("show", "digits-encoder@candidate"),
        ("show", "digits-encoder/1", "--json"),
        ("show", "digit-encoder"),
        ("history", "digits-encoder"),
        ("history", "digits-encoder", "--json"),
        ("rollback", "digits-encoder"),
        ("promote", "digits-encoder", "--reason", " "),
        ("promote", "digits-encoder", "--reason", ""),
    )
    without = [reco("models", *arguments, uri=uri) for arguments in asked]
    assert [done.exit_code for done in without] == [0, 0, 0, 0, 2, 0, 0, 2, 2, 2]
    with Control(Settings.from_environment({"RECO_HOME": str(home)})) as control, serving(control) as api:
        monkeypatch.setenv("RECO_API", api.url)
        monkeypatch.setenv("RECO_TOKEN", api.token("promoter"))
        over_http = [reco("models", *arguments, uri=uri) for arguments in asked]
    assert [done.exit_code for done in over_http] == [done.exit_code for done in without]
    assert [done.stdout for done in over_http] == [done.stdout for done in without]
    assert [done.stderr for done in over_http] == [done.stderr for done in without]


def test_an_unreachable_server_is_one_line_and_what_to_do(reco: Reco) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = reco("models", "list", "--json", uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "MLflow is not reachable" in done.stderr
    assert "MLFLOW_TRACKING_URI" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_a_server_that_does_not_run(reco: Reco, home: Path) -> None:
    content = json.loads(reco("tracking", "status", "--json").stdout)
    assert content["running"] is False
    assert content["folder"] == str(home / "mlflow")
    assert json.loads(reco("tracking", "stop", "--json").stdout) == {"stopped": False}
    assert not home.exists()
