"""An encoder judged as a user would have it: figures, pictures, its record in MLflow, and input that cannot be used."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from mlflow import MlflowClient
from PIL import Image

from jobs.judging import ENCODER_FILES, ENCODER_FOLDER, Questions, judge, ks_for
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec, to_yaml
from jobs.tracking.models import fetch_encoder, find_model
from jobs.training.ranks import Ranks
from tests.encoders import register_random
from tests.pictures import striped, write_shards
from tests.ranks import run_on_ranks


@pytest.fixture
def home(tracking_home: Path) -> Path:
    return tracking_home


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("fitted") / "shards", samples=160)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("judged") / "shards", samples=120, seed=1)


@pytest.fixture(scope="module")
def model(uri: str, shards: Path) -> str:
    return register_random(uri, "evaluated", probe=shards, judged_hash="something else").name


@pytest.fixture(scope="module")
def files(uri: str, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_encoder(model, uri, tmp_path_factory.mktemp("encoder") / "files")


def evaluate(home: Path, out: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "jobs.evaluate", *arguments, "--out", str(out), "--home", str(home)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "--workers" not in arguments:  # Ray's own processes may log tracebacks where several clusters share a machine
        assert "Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, json.loads(ran.stdout.splitlines()[-1])


def test_figures_are_kept_with_the_encoder(home: Path, uri: str, model: str, others: Path, tmp_path: Path) -> None:
    code, told = evaluate(home, tmp_path, f"{model}/1", str(others), "--k", "1", "20", "--sgd")
    assert code == 0, told
    metrics = told["judgement"]["metrics"]  # type: ignore[index]
    assert set(metrics) == {"knn@1", "knn@20", "linear", "linear_sgd", "few_shot@0.01", "few_shot@0.1", "rank_me"}
    assert metrics["linear"] > 50, "stripes of four kinds are easy even for random features"
    assert sum(map(sum, told["judgement"]["confusion"])) == 120  # type: ignore[index]
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "classes.png", "classes.csv"}

    version = find_model(f"{model}/1", uri)
    kept = version.evaluations[-1]
    assert (kept.metrics, kept.data) == (metrics, str(others))
    run = MlflowClient(uri).get_run(version.mlflow_run_id)
    assert run.data.metrics[f"eval/{kept.probe}/linear"] == pytest.approx(metrics["linear"])

    assert evaluate(home, tmp_path, f"{model}/1", str(others), "--k", "5", "--few-shot", "0.2")[0] == 0
    known = {each.probe: each for each in find_model(f"{model}/1", uri).evaluations}
    assert {"knn@5", "knn@20", "few_shot@0.2", "few_shot@0.01"} <= known[kept.probe].metrics.keys()


def judged_metrics(rank: int, world_size: int, text: str, storage: str) -> dict[str, float]:
    folder = RunFolder(storage, "eval")
    judge(
        parse_spec(text), folder, Ranks(rank, world_size, torch.device("cpu")), questions=Questions((5, 20), sgd=True)
    )
    return folder.result() or {}


def test_two_ranks_find_what_one_does(files: Path, shards: Path, others: Path, tmp_path: Path) -> None:
    text = (files / "spec.yaml").read_text()
    spec = parse_spec(text, [f"data.probe={{train: {shards}, valid: {others}, test: {others}}}"])
    found = {}
    for ranks in (1, 2):
        folder = RunFolder(str(tmp_path / f"{ranks}"), "eval")
        for name in ENCODER_FILES:
            folder.storage.upload(f"{ENCODER_FOLDER}/{name}", files / name)
        run_on_ranks(judged_metrics, ranks, to_yaml(spec), str(tmp_path / f"{ranks}"))
        found[ranks] = folder.result()
    assert found[1] is not None
    assert found[1] == pytest.approx(found[2], abs=1e-3)


@pytest.mark.slow
def test_two_workers_on_ray_find_what_one_process_does(home: Path, model: str, others: Path, tmp_path: Path) -> None:
    found = {}
    for workers in ("1", "2"):
        code, told = evaluate(home, tmp_path, f"{model}/1", str(others), "--workers", workers)
        assert code == 0, told
        found[workers] = told["judgement"]["metrics"]  # type: ignore[index]
    assert found["1"] == pytest.approx(found["2"], abs=1e-3)


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        ({"labels": False}, [], "have no label"),
        ({"same": True}, [], "to judge on are the same"),
        ({}, ["--k", "0"], "counted from 1"),
        ({}, ["--few-shot", "3"], "between 0 and 1"),
        ({"one_class": True}, [], "one class only"),
        ({}, ["--k", "161"], "161 neighbours cannot vote: there are 160 pictures"),
        ({"damage": "encoder.safetensors"}, [], "SHA-256 differs"),
        ({"damage": "encoder.json"}, [], "cannot be read"),
        ({}, ["--set", "data.image_size=yes"], "data.image_size"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    make: dict[str, object],
    arguments: list[str],
    words: str,
    home: Path,
    files: Path,
    shards: Path,
    others: Path,
    tmp_path: Path,
) -> None:
    mine = tmp_path / "encoder"
    shutil.copytree(files, mine)
    if damaged := make.get("damage"):
        whole = (mine / str(damaged)).read_bytes()
        (mine / str(damaged)).write_bytes(whole[: len(whole) // 2])
    data = shards if make.get("same") else others
    if not make.get("labels", True):
        data = write_shards(tmp_path / "unlabelled", samples=40, labels=False)
    if make.get("one_class"):
        data = one_class(tmp_path / "one-class")
    code, told = evaluate(home, tmp_path / "out", str(mine), str(data), *arguments)
    assert code in (1, 2), told
    assert words in f"{told['error']} {told['hint']}"
    assert not (tmp_path / "out").exists()


def one_class(folder: Path) -> Path:
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "part-000000.tar")) as writer:
        for number in range(20):
            buffer = io.BytesIO()
            Image.fromarray(striped(0, number)).save(buffer, "PNG")
            writer.write({"__key__": f"{number:06d}", "png": buffer.getvalue(), "cls": 1})
    return folder


def test_the_usual_numbers_of_neighbours_fit_the_classes() -> None:
    assert ks_for(np.arange(50_000) % 10, ()) == (1, 5, 10, 20, 50, 100, 200)
    assert ks_for(np.arange(160) % 4, ()) == (1, 5, 8, 10, 20)
    assert ks_for(np.arange(160) % 4, (3,)) == (3,)
