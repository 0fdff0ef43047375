"""Finished parts: kept whole, used for the same work only, and removed without touching anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.embedding.errors import OtherWorkError
from jobs.embedding.parts import Manifest, PartsFolder, to_bytes
from jobs.embedding.worker import Part, Skipped
from jobs.errors import UserError

MANIFEST = Manifest(model="m", preprocessing={"image_size": 16}, source="s", pictures=3, part=128, batch=128)
PART = Part(["a", "b"], np.array([1, -1]), np.arange(6, dtype=np.float32).reshape(2, 3), [])


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = PartsFolder(str(tmp_path / "parts"), MANIFEST)
    folder.write(7, to_bytes(PART), [Skipped("ü", "cut")])
    again = PartsFolder(str(tmp_path / "parts"), MANIFEST)
    assert again.finished() == {7}
    assert again.skipped() == {7: [Skipped("ü", "cut")]}
    part = again.read(7)
    assert part.keys == ["a", "b"]
    assert part.labels is not None
    assert part.labels.tolist() == [1, -1]
    np.testing.assert_array_equal(part.features, PART.features)


def test_a_part_without_any_usable_picture_keeps_its_width(tmp_path: Path) -> None:
    folder = PartsFolder(str(tmp_path / "parts"), MANIFEST)
    folder.write(0, to_bytes(Part([], None, np.empty((0, 3), np.float32), [])), [Skipped("a", "cut")])
    assert folder.read(0).features.shape == (0, 3)


@pytest.mark.parametrize("change", [{"model": "n"}, {"source": "t"}, {"part": 256}, {"preprocessing": {}}])
def test_parts_of_other_work_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    PartsFolder(str(tmp_path / "parts"), MANIFEST).write(0, to_bytes(PART), [])
    other = MANIFEST.model_copy(update=change)
    with pytest.raises(OtherWorkError, match=str(Manifest.model_fields[next(iter(change))].title)):
        PartsFolder(str(tmp_path / "parts"), other)
    assert PartsFolder(str(tmp_path / "parts"), other, restart=True).finished() == set()


def test_parts_without_a_manifest_are_nobodys(tmp_path: Path) -> None:
    PartsFolder(str(tmp_path / "parts"), MANIFEST).write(0, to_bytes(PART), [])
    (tmp_path / "parts" / "manifest.json").unlink()
    assert PartsFolder(str(tmp_path / "parts"), MANIFEST).finished() == set()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = PartsFolder(str(tmp_path / "parts"), MANIFEST)
    folder.write(0, to_bytes(PART)[:-20], [])
    with pytest.raises(UserError, match=r"part-000000\.parquet is damaged"):
        folder.read(0)


def test_removing_leaves_what_belongs_to_others(tmp_path: Path) -> None:
    folder = PartsFolder(str(tmp_path / "parts"), MANIFEST)
    folder.write(0, to_bytes(PART), [Skipped("a", "cut")])
    (tmp_path / "parts" / ".reco-tmp-killed").touch()
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    folder.remove()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["notes.txt"]
    (tmp_path / "parts" / "notes.txt").unlink()
    folder.remove()
    assert not (tmp_path / "parts").exists()
