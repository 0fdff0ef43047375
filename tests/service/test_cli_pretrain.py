"""`reco pretrain` before anything is started, and what it is started with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.checkpoints.fence import Fence
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from service.cli.main import app
from tests.pictures import tiny_spec, write_shards


def test_the_id_of_another_experiment_is_refused_and_its_outcome_kept(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "taken")
    folder.claim(parse_spec(tiny_spec(tmp_path)))
    Fence.take(folder.storage)  # its workers have begun
    folder.write_outcome({"status": "succeeded", "exit_code": 0, "results": {}})
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(tmp_path, optimizer__lr=0.5))
    ran = CliRunner().invoke(app, ["pretrain", str(spec), "--run-id", "taken", "--storage", str(tmp_path)])
    assert getattr(ran.exception, "exit_code", ran.exit_code) == 2
    assert "exists with another spec" in f"{ran.exception} {ran.output}"
    assert folder.outcome() == {"status": "succeeded", "exit_code": 0, "results": {}}


@pytest.mark.parametrize("run_id", ["../escaped", "a b", "", ".hidden", "a/b", "x" * 129])
def test_an_id_that_is_no_name_is_refused_and_nothing_written(tmp_path: Path, run_id: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(tmp_path))
    runs = tmp_path / "runs"
    ran = CliRunner().invoke(app, ["pretrain", str(spec), "--run-id", run_id, "--storage", str(runs)])
    assert "a run cannot be called" in f"{ran.exception} {ran.output}"
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_file_of_the_users_that_is_called_like_one_of_pythons_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not yours')\n")
    reco = str(Path(sys.executable).with_name("reco"))
    shards = write_shards(tmp_path / "shards", samples=8)
    ran = subprocess.run(
        [reco, "data", "stats", str(shards)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
