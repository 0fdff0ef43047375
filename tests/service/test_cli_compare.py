"""`reco runs compare` and `reco models compare` as a user meets them, against a real MLflow server."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from torch import nn
from typer.testing import CliRunner, Result

from jobs.tracking.encoders import register_encoder
from jobs.tracking.runs import TrackedRun, open_run
from jobs.tracking.server import stop_server, tracking_uri
from service.cli.main import app


class Reco(Protocol):
    def __call__(self, *arguments: str, uri: str | None = None) -> Result: ...


def log(uri: str, run_id: str, knn: float, **options: object) -> TrackedRun:
    run = open_run(
        uri,
        experiment="reco",
        run_id=run_id,
        name="n",
        params={"method": {"temperature": 0.2}, "encoder": {"name": "resnet18"}, "train": {"seed": 0}} | options,
        tags={"reco.spec_hash": "s", "reco.dataset_hash": "d1ce", "reco.code": "abc", "reco.device": "cpu x86_64"},
    )
    points = [Metric("valid/knn", knn - 2 + step, step, step) for step in range(3)]
    points += [Metric("pictures_seen", 64 * step, step, step) for step in range(3)]
    MlflowClient(uri).log_batch(run.mlflow_run_id, metrics=[*points, Metric("test/knn", knn, 3, 3)])
    run.finish("FINISHED")
    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server with two configurations of three seeds, seven of one seed, and two versions of an encoder."""
    folder = tmp_path_factory.mktemp("reco-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = tracking_uri(folder)
    try:
        for seed in range(3):
            log(uri, f"base-{seed}", 40.0 + seed, train={"seed": seed})
            log(uri, f"cold-{seed}", 50.0 + seed, train={"seed": seed}, method={"temperature": 0.05})
        for number in range(7):
            log(uri, f"many-{number}", 40.0 + number, method={"temperature": 0.1 + number})
        for number in (1, 2):
            run = log(uri, f"model-{number}", 60.0, encoder={"name": f"tiny{number}"})
            register_encoder(
                run,
                name="tiny-encoder",
                encoder=nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                encoder_config={"name": "tiny", "stem": "cifar", "width": 4},
                preprocessing={"image_size": 8, "crop_fraction": 1.0},
                spec_yaml="name: x\ndata: {train: shards, image_size: 8}\nencoder: {name: resnet18}\n",
                dataset_hash="d1ce",
                metrics={"test/knn": 60.0 + number},
                card="A tiny encoder.",
            )
        yield folder
    finally:
        stop_server(folder)


@pytest.fixture
def reco(home: Path, monkeypatch: pytest.MonkeyPatch) -> Reco:
    def run(*arguments: str, uri: str | None = None) -> Result:
        monkeypatch.setenv("RECO_HOME", str(home))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri or "")
        return CliRunner().invoke(app, [arguments[0], "compare", *arguments[1:]])

    return run


def test_groups_of_seeds_stand_side_by_side_with_a_verdict(reco: Reco) -> None:
    done = reco("runs", "--name", "base-*", "cold-0", "cold-1", "cold-2")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert "cold (3 seeds)" in done.stdout
    assert ["method.temperature", "0.05", "0.2"] in lines
    assert ["test/knn", "51.0", "±", "1.0", "41.0", "±", "1.0"] in lines  # as named, then as selected
    assert "1 options are equal; so are the data, the code" in done.stdout
    assert "cold (3 seeds) is best by test/knn: 51.0 ± 1.0, 10 more than base (3 seeds)" in done.stdout
    assert "beyond the spread of seeds" in done.stdout
    assert "resnet18" not in done.stdout  # equal for all


def test_many_runs_have_a_row_each_with_the_best_first(reco: Reco) -> None:
    done = reco("runs", "--name", "many-*")
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(" many-")]
    assert [row[0] for row in rows] == [f"many-{number}" for number in range(6, -1, -1)]
    assert rows[0][1:] == ["46", "6.1"]


def test_json_and_csv_are_for_programs(reco: Reco) -> None:
    content = json.loads(reco("runs", "base-0", "cold-0", "--metric", "valid/knn", "--json").stdout)
    assert (content["metric"], content["ranked"], content["beyond_spread"]) == ("valid/knn", ["cold-0", "base-0"], None)
    rows = list(csv.DictReader(io.StringIO(reco("runs", "base-0", "cold-0", "--csv").stdout)))
    assert [(row["run"], row["method.temperature"], row["best valid/knn"]) for row in rows] == [
        ("base-0", "0.2", "40.0"),
        ("cold-0", "0.05", "50.0"),
    ]


def test_a_page_and_a_picture_of_curves_are_written(reco: Reco, tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "curves.png"
    done = reco("runs", "base-0", "cold-0", "--html", str(page), "--curves", str(picture))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    assert f"✓ {page}" in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in page.read_text()
    alone = tmp_path / "alone.html"
    assert reco("runs", "base-0", "cold-0", "--html", str(alone)).exit_code == 0
    assert "data:image/png;base64," in alone.read_text()
    missing = reco("runs", "base-0", "cold-0", "--curves", str(tmp_path / "no" / "curves.png"))
    assert missing.exit_code == 2
    assert "there is no folder" in missing.stderr


def test_encoders_are_compared_by_their_runs_and_the_results_they_were_registered_with(reco: Reco) -> None:
    done = reco("models", "tiny-encoder/1", "tiny-encoder@candidate")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert ["tiny-encoder/1", "tiny-encoder/2"] in lines
    assert ["encoder.name", "tiny1", "tiny2"] in lines
    assert ["test/knn", "61", "62"] in lines
    assert "tiny-encoder/2 is best by test/knn" in done.stdout
    same = reco("models", "tiny-encoder/2", "tiny-encoder@candidate")
    assert same.exit_code == 2
    assert "only one encoder to compare: tiny-encoder/2" in same.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs", "base-0", "bace-1"], ["no run 'bace-1'", "Did you mean 'base-1'?"]),
        (["runs", "base-0"], ["only one run to compare: base-0"]),
        (["runs"], ["no run is named", "--sweep"]),
        (["runs", "base-0", "base-1", "--metric", "test/kn"], ["Did you mean 'test/knn'?"]),
        (["models", "tiny-encoder/1", "tiny-encoder/7"], ["has no version 7"]),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_what_to_do(reco: Reco, arguments: list[str], words: list[str]) -> None:
    done = reco(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    for each in words:
        assert each in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_an_unreachable_server_is_one_line(reco: Reco) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = reco("runs", "a", "b", uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert done.exit_code == 2
    assert "MLflow is not reachable" in done.stderr
    assert done.stdout == ""


def test_the_command_imports_neither_torch_nor_mlflow_before_it_needs_them() -> None:
    code = (
        "import sys, service.cli.compare; print(sorted({'torch', 'mlflow', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, jobs.tracking.comparison_report; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
