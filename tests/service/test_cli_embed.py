"""`reco embed` and `reco search` as a user meets them, with an encoder from a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.embedding.made import add_slow_files, make_encoder, png, write_files
from tests.pictures import write_shards

pytestmark = pytest.mark.timeout(600)

COMMANDS = """
import typer
from service.cli.embed import embed
from service.cli.main import Root
from service.cli.search import search
app = typer.Typer(cls=Root)
app.command()(embed)
app.command()(search)
app()
"""
Reco = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return kept | {"RECO_HOME": str(tmp_path_factory.mktemp("home")), "COLUMNS": "120"}


@pytest.fixture(scope="module")
def reco(environment: dict[str, str]) -> Reco:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", COMMANDS, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)

    return run


@pytest.fixture(scope="module")
def embedded(reco: Reco, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures in the folders `columns` and `rows`, and beside them their embeddings."""
    folder = tmp_path_factory.mktemp("embedded")
    out = folder / "photos.parquet"
    done = reco("embed", encoder, write_files(folder / "photos", 40), "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"✓ 40 embeddings of 64 numbers in {out}\n"
    return out


def test_search_finds_the_picture_itself_first(reco: Reco, embedded: Path) -> None:
    found = reco("search", embedded, embedded.with_name("photos") / "rows" / "00007.png", "-k", "3", "--json")
    assert found.returncode == 0, found.stderr
    first, *others = json.loads(found.stdout)["neighbours"]
    assert (first["rank"], first["key"], first["label"]) == (1, "rows/00007.png", "rows")
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert [other["rank"] for other in others] == [2, 3]
    assert first["similarity"] >= others[0]["similarity"] >= others[1]["similarity"]


def test_search_by_key_finds_others_and_draws_them(reco: Reco, embedded: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    found = reco("search", embedded, "--key", "rows/00007.png", "-k", "3", "--sheet", sheet)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[1].split() == ["Rank", "Similarity", "Picture", "Label"]
    assert [line.split()[0] for line in lines[3:6]] == ["1", "2", "3"]
    assert "00007" not in found.stdout
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert sheet.stat().st_size > 5000


def test_a_sheet_of_pictures_that_were_moved_needs_their_new_place(
    reco: Reco, embedded: Path, tmp_path: Path, encoder: Path
) -> None:
    photos, out = shutil.copytree(embedded.with_name("photos"), tmp_path / "photos"), tmp_path / "photos.npy"
    assert reco("embed", encoder, photos, "-o", out).returncode == 0
    moved = photos.rename(tmp_path / "moved")
    words = ("search", out, moved / "rows" / "00007.png", "--sheet", tmp_path / "sheet.png")
    failed = reco(*words)
    assert failed.returncode == 2
    assert "There is no folder" in failed.stderr
    assert reco(*words, "--pictures", moved).returncode == 0
    assert (tmp_path / "sheet.png").stat().st_size > 5000


def test_search_with_another_model_than_the_files_is_refused(reco: Reco, embedded: Path, tmp_path: Path) -> None:
    other = make_encoder(tmp_path / "other", seed=1)
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(1))
    for query in ((picture,), ("--key", "rows/00007.png")):
        refused = reco("search", embedded, *query, "--model", other)
        assert refused.returncode == 2
        assert f"not of {other}" in refused.stderr
        assert refused.stdout == ""


def test_search_says_what_is_wrong_with_the_query(reco: Reco, embedded: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for words, message in (
        ((embedded, text), "cannot be read as a picture: neither JPEG, PNG nor WebP"),
        ((embedded, tmp_path / "none.png"), "There is no file"),
        ((embedded, "--key", "none"), "has no picture none"),
        ((embedded,), "there is not one query"),
        ((tmp_path / "none.parquet", text), "There is no file"),
        ((text, text), "is neither .parquet nor .npy"),
    ):
        refused = reco("search", *words)
        assert refused.returncode == 2, words
        assert message in refused.stderr


def test_embed_draws_a_sheet_and_a_map_of_shards(reco: Reco, encoder: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=60)
    done = reco(
        "embed",
        encoder,
        shards,
        "-o",
        tmp_path / "out.parquet",
        "--sheet",
        tmp_path / "sheet.png",
        "--map",
        tmp_path / "map.png",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 5000
    assert (tmp_path / "map.png").stat().st_size > 5000


@pytest.mark.parametrize(("out", "message"), [("out.csv", "neither .parquet nor .npy"), ("folder.npy", "is a folder")])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    reco: Reco, encoder: Path, embedded: Path, tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "folder.npy").mkdir()
    refused = reco("embed", encoder, embedded.with_name("photos"), "-o", tmp_path / out)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_ctrl_c_stops_the_job_in_order(encoder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    photos, out = add_slow_files(write_files(tmp_path / "photos", 3000)), tmp_path / "out.parquet"
    command = [sys.executable, "-c", COMMANDS, "embed", str(encoder), str(photos), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    parts = tmp_path / "out.parquet.parts"
    deadline = time.monotonic() + 120
    while not (parts / "part-000000.parquet").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, noted = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in noted
    assert parts.is_dir()
    assert not out.exists()
