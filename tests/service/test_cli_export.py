"""`reco models export` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from jobs.reco import build_encoder
from jobs.tracking.files import CONFIG, PREPROCESSING, WEIGHTS, sha256
from service.cli.main import app

Reco = Callable[..., tuple[int, str, str]]


@pytest.fixture
def reco(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Reco:
    """The command; exit code, and what it and its child wrote."""
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["models", "export", *arguments])
        child = capfd.readouterr()
        return done.exit_code, done.stdout + child.out, done.stderr + child.err

    return run


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    module = build_encoder("resnet10", stem="cifar", width=8)
    save_file(module.state_dict(), folder / WEIGHTS)
    config = {"name": "resnet10", "stem": "cifar", "width": 8, "feature_dim": module.feature_dim}
    (folder / CONFIG).write_text(json.dumps(config | {"sha256": sha256(folder / WEIGHTS)}))
    (folder / PREPROCESSING).write_text(json.dumps({"image_size": 32, "crop_fraction": 1.0}))
    return folder


def test_export_writes_says_and_refuses_to_do_it_twice(reco: Reco, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    code, said, _ = reco(str(encoder), "--format", "safetensors", "-o", str(out))
    assert code == 0
    assert f"✓ encoder as safetensors in {out} (0.3 MB)" in said
    assert "its first stage has 8 channels, theirs 64" in said
    assert out.read_bytes() == (encoder / WEIGHTS).read_bytes()

    code, said, error = reco(str(encoder), "-f", "safetensors", "-o", str(out))
    assert (code, said) == (2, "")
    assert f"{out} exists already" in error

    code, said, _ = reco(str(encoder), "-f", "safetensors", "-o", str(out), "--force", "--json")
    assert code == 0
    content = json.loads(said)
    assert content["encoder"]["feature_dim"] == 64
    assert content["file"] == str(out)
    assert content["bytes"] == out.stat().st_size
    assert not (tmp_path / "home").exists(), "a folder needs no tracking server"


def test_an_unknown_format_is_one_line_and_what_to_do(reco: Reco, encoder: Path, tmp_path: Path) -> None:
    code, said, error = reco(str(encoder), "--format", "torchvision", "-o", str(tmp_path / "e.bin"))
    assert (code, said) == (2, "")
    assert error.splitlines() == [
        "error: there is no format 'torchvision'.",
        "  → Give --format safetensors, which is what you probably mean.",
    ]


def test_a_damaged_encoder_is_one_line_and_the_jobs_exit_code(reco: Reco, encoder: Path, tmp_path: Path) -> None:
    (encoder / WEIGHTS).write_bytes((encoder / WEIGHTS).read_bytes()[:-1])
    code, said, error = reco(str(encoder), "-f", "onnx", "-o", str(tmp_path / "e.onnx"))
    assert (code, said) == (1, "")
    assert "is not the file that was registered" in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_the_command_imports_neither_torch_nor_mlflow() -> None:
    script = "import sys, service.cli.export; assert not {'torch', 'mlflow', 'onnx'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
