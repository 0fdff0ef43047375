"""An export is there whole or not at all, and whoever asks for what cannot be is told what to do."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from jobs.export import export
from jobs.exporting.errors import ExportError
from jobs.exporting.formats import Format
from jobs.tracking.files import CONFIG, PREPROCESSING, REFERENCE, WEIGHTS, sha256
from tests.jobs.exporting.made import NOWHERE, Main, amend, left_in, save


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("onx", "Give --format onnx, which"),
        ("timm", "Give --format safetensors, which"),
        ("coreml", "Give one of safetensors|pt2|onnx|detectron2."),
    ],
)
def test_an_unknown_format_names_the_one_that_is_meant(
    small: Path, run: Main, tmp_path: Path, kind: str, hint: str
) -> None:
    code, said, error = run(small, kind, tmp_path / "e.onnx")
    assert (code, said) == (2, "")
    assert error.splitlines()[0] == f"error: there is no format {kind!r}."
    assert hint in error
    assert left_in(tmp_path) == {"small"}


def truncate(folder: Path) -> None:
    with (folder / WEIGHTS).open("rb+") as file:
        file.truncate(1000)


def truncate_unseen(folder: Path) -> None:
    truncate(folder)
    amend(folder, CONFIG, sha256=sha256(folder / WEIGHTS))


def swap_reference(folder: Path) -> None:
    kept = load_file(folder / REFERENCE)
    save_file({**kept, "features": kept["features"] + 0.001}, folder / REFERENCE)


@pytest.mark.parametrize("kind", Format)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "is not the file that was registered"),
        (truncate_unseen, "cannot be read"),
        (lambda folder: amend(folder, CONFIG, sha256="0" * 64), "is not the file that was registered"),
        (lambda folder: amend(folder, CONFIG, width=16), "not those of a resnet10 of width 16"),
        (lambda folder: amend(folder, PREPROCESSING, image_size="big"), "does not say how pictures are prepared"),
        (swap_reference, "computes other features than when it was registered, by 0.001"),
    ],
    ids=["truncated", "truncated-unseen", "hash", "width", "preprocessing", "features"],
)
def test_a_damaged_encoder_is_not_exported(
    small: Path, run: Main, tmp_path: Path, kind: Format, damage: Callable[[Path], None], words: str
) -> None:
    damage(small)
    code, said, error = run(small, kind, tmp_path / f"e{kind.suffix}")
    assert (code, said) == (1, "")
    assert words in error
    assert "\n  → " in error, "what to do next"
    assert "Traceback" not in error
    assert left_in(tmp_path) == {"small"}


def test_a_graph_that_computes_nonsense_never_gets_its_name(small: Path, tmp_path: Path) -> None:
    weights = load_file(small / WEIGHTS)
    weights["conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, small / WEIGHTS)
    amend(small, CONFIG, sha256=sha256(small / WEIGHTS))
    (small / REFERENCE).unlink()  # as of an encoder that was registered before there was one
    for kind in (Format.PT2, Format.ONNX):
        with pytest.raises(ExportError, match="differs from the encoder by nan for a batch of 1"):
            export(str(small), kind, tmp_path / f"e{kind.suffix}", home=NOWHERE)
    assert left_in(tmp_path) == {"small"}


def test_what_is_there_is_replaced_only_by_force(small: Path, run: Main, tmp_path: Path) -> None:
    out, beside = tmp_path / "e.safetensors", tmp_path / "e.safetensors.json"
    for there in (out, beside):
        there.write_text("dear")
        code, _, error = run(small, "safetensors", out)
        assert code == 2
        assert error == f"error: {there} exists already.\n  → Give --force to replace it, or another name.\n"
        assert there.read_text() == "dear"
        there.unlink()
    out.write_text("dear")
    assert run(small, "safetensors", out, "--force")[0] == 0
    assert sha256(out) == sha256(small / WEIGHTS)
    assert left_in(tmp_path) == {"small", out.name, beside.name}


def test_a_destination_that_cannot_be_is_refused_at_once(small: Path, run: Main, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, words in {
        "small": "is a folder",
        "e.bin": "does not end in .pt2",
        "file/e.pt2": f"{tmp_path / 'file'} is a file",
    }.items():
        code, _, error = run("an-encoder-nobody-asks-for", "pt2", tmp_path / out)
        assert (code, words in error) == (2, True), error
    assert left_in(tmp_path) == {"small", "file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused_at_once(run: Main, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, error = run("an-encoder-nobody-asks-for", "pt2", tmp_path / "locked" / "e.pt2")
    assert (code, "no right to write" in error) == (2, True), error


@pytest.mark.parametrize("kind", Format)
def test_a_disk_that_is_full_leaves_nothing(run: Main, tmp_path: Path, kind: Format) -> None:
    network = "resnet50" if kind is Format.DETECTRON2 else "resnet10"  # detectron2 has no other one of this width
    source = save(tmp_path / "source", network, stem="imagenet", width=8, size=32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        code, _, error = run(source, kind, tmp_path / f"e{kind.suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert f"e{kind.suffix} could not be written: File too large" in error
    assert left_in(tmp_path) == {"source"}


def test_a_missing_package_is_named_before_anything_is_fetched(
    run: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # Python's own way to say that a module is not to be had
    code, _, error = run("an-encoder-nobody-asks-for", "onnx", tmp_path / "e.onnx")
    assert code == 2
    assert "onnx needs onnxruntime, which this Python does not have" in error
    assert "-m pip install onnxruntime" in error


def test_an_export_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "source", "resnet18", stem="imagenet", width=64, size=64)  # it takes a second or two
    command = [sys.executable, "-m", "jobs.export", str(source), "--format", "pt2", "--home", str(NOWHERE)]
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out" / "e.pt2")], stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    while not (tmp_path / "out").exists() or not left_in(tmp_path / "out"):
        assert child.poll() is None, child.communicate()
        time.sleep(0.005)
    child.send_signal(signal.SIGTERM)
    _, error = child.communicate()
    assert (child.returncode, error) == (130, "stopped; nothing was written\n")
    assert left_in(tmp_path / "out") == set()
