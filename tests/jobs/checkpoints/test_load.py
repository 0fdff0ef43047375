"""Checkpoints exist once whole, fall back over damage, and are refused where they do not belong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.checkpoints.load import CheckpointError, load_newest
from jobs.checkpoints.manifest import list_manifests
from tests.jobs.checkpoints.made import run_folder, save

NAMES = {"spec_hash": "s", "dataset_hash": "d"}


def test_the_newest_is_loaded_and_older_ones_are_deleted(tmp_path: Path) -> None:
    kept = run_folder(tmp_path)
    for step in (10, 20, 30):
        save(kept, {"weights": torch.full((3,), float(step)), "step": step}, step=step, keep=2)
    assert [manifest.step for manifest in list_manifests(kept.storage)] == [30, 20]
    assert len(list((tmp_path / "checkpoints").iterdir())) <= 3
    found = load_newest(kept.storage, **NAMES)
    assert found is not None
    manifest, state = found
    assert (manifest.step, state["step"]) == (30, 30)
    assert state["weights"].tolist() == [30.0] * 3


def test_none_where_nothing_was_saved(tmp_path: Path) -> None:
    assert load_newest(run_folder(tmp_path).storage, **NAMES) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "manifest"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    kept = run_folder(tmp_path)
    save(kept, {"step": 10}, step=10)
    save(kept, {"step": 20}, step=20)
    state = next((tmp_path / "checkpoints").glob("*20/state.pt"))
    data = state.read_bytes()
    if damage == "truncated":
        state.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        state.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    elif damage == "missing":
        state.unlink()
    else:
        state.with_name("manifest.json").write_text('{"step": 20')
    found = load_newest(kept.storage, **NAMES)
    assert found is not None
    assert found[1]["step"] == 10


def test_a_state_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    kept = run_folder(tmp_path)
    save(kept, {"step": 10}, step=10)
    save(kept, {"step": 20}, step=20)
    next((tmp_path / "checkpoints").glob("*20/manifest.json")).unlink()  # as if killed between the two writes
    found = load_newest(kept.storage, **NAMES)
    assert found is not None
    assert found[0].step == 10


def test_when_all_are_damaged_it_says_so_rather_than_start_anew(tmp_path: Path) -> None:
    kept = run_folder(tmp_path)
    save(kept, {"step": 10}, step=10)
    next((tmp_path / "checkpoints").glob("*/state.pt")).write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 1 checkpoints"):
        load_newest(kept.storage, **NAMES)


@pytest.mark.parametrize(("changed", "words"), [("spec_hash", "another spec"), ("dataset_hash", "another data index")])
def test_one_of_another_spec_or_data_set_is_refused(tmp_path: Path, changed: str, words: str) -> None:
    kept = run_folder(tmp_path)
    save(kept, {"step": 10}, step=10)
    with pytest.raises(CheckpointError, match=words):
        load_newest(kept.storage, **(NAMES | {changed: "other"}))


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    kept = run_folder(tmp_path)
    save(kept, {"trap": Trap()}, step=10)
    with pytest.raises(CheckpointError):
        load_newest(kept.storage, **NAMES)
    assert not (tmp_path / "ran").exists()
