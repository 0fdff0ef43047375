"""What shards hold, counted by hand, and a sheet that shows the very pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.shards.dataset import open_dataset
from jobs.shards.sheet import draw_grid, draw_samples
from jobs.shards.stats import Spread, describe
from jobs.storage import StorageError
from tests.jobs.shards.made import make_shards, picture, shard_members, tar_bytes


def test_counts_sizes_formats_and_labels_are_those_of_the_pictures(tmp_path: Path) -> None:
    sizes = [(4, 9), (6, 6), (10, 3), (20, 5)]
    pictures = [picture(n, height=h, width=w, kind=("PNG", "JPEG")[n % 2]) for n, (h, w) in enumerate(sizes)]
    members = [(f"{n}.{('png', 'jpg')[n % 2]}", data) for n, data in enumerate(pictures)]
    members += [("0.cls", b"7"), ("1.cls", b"2"), ("2.cls", b"7"), ("bad.jpg", b"")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members[:1] + members[4:5]))
    (tmp_path / "b.tar").write_bytes(tar_bytes(members[1:4] + members[5:]))
    dataset = open_dataset(str(tmp_path))
    stats = describe(dataset, str(tmp_path))
    assert (stats.samples, stats.shards, stats.left_out, stats.hash) == (4, 2, 1, dataset.hash)
    assert stats.height == Spread(4, 8.0, 20)
    assert stats.width == Spread(3, 5.5, 9)
    lengths = sorted(len(data) for data in pictures)
    assert stats.bytes == Spread(lengths[0], (lengths[1] + lengths[2]) / 2, lengths[-1])
    assert stats.picture_bytes == sum(lengths)
    assert stats.pixels == sum(h * w for h, w in sizes)
    assert stats.shard_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert stats.formats == {"jpeg": 2, "png": 2}
    assert stats.labels == {2: 1, 7: 2}
    assert stats.unlabelled == 1
    assert stats.classes == []


def test_classes_have_their_names_where_there_are_some(tmp_path: Path) -> None:
    for name, classes in (("train", '["cat", "dog", "eel"]'), ("test", '["cat", "dog", "eel"]'), ("other", '["x"]')):
        make_shards(tmp_path / name, [3])
        (tmp_path / name / "classes.json").write_text(classes)
    both = [str(tmp_path / "train"), str(tmp_path / "test")]
    assert describe(open_dataset(both), both).classes == ["cat", "dog", "eel"]
    differing = [*both, str(tmp_path / "other")]
    assert describe(open_dataset(differing), differing).classes == []
    (tmp_path / "train" / "classes.json").write_text("[")
    with pytest.raises(StorageError, match=r"classes\.json is damaged"):
        describe(open_dataset(both), both)


def test_the_sheet_shows_the_chosen_pictures_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    make_shards(tmp_path, [20, 15], ragged=True)
    dataset = open_dataset(str(tmp_path))
    sheets = [draw_samples(dataset, [], count=10, seed=seed) for seed in (1, 1, 2)]
    assert sheets[0] == sheets[1] != sheets[2]
    assert Image.open(io.BytesIO(sheets[0])).size == (8 * 168 + 8, 2 * 186 + 8)
    assert Image.open(io.BytesIO(draw_samples(dataset, [], count=100, seed=0))).size == (8 * 168 + 8, 5 * 186 + 8)


def test_a_damaged_sample_leaves_its_cell_empty(tmp_path: Path) -> None:
    cut = picture(1, height=64, width=64)[:900]
    (tmp_path / "x.tar").write_bytes(tar_bytes([("cut.jpg", cut), *shard_members(0, 1)]))
    sheet = np.asarray(Image.open(io.BytesIO(draw_samples(open_dataset(str(tmp_path)), [], count=2, seed=0))))
    assert np.unique(sheet[8:168, 8:168].reshape(-1, 3), axis=0).tolist() == [[0xE5, 0xE7, 0xEB]]


def test_pictures_keep_their_proportions_and_colours() -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:] = (200, 10, 30)
    sheet = np.asarray(Image.open(io.BytesIO(draw_grid([(pixels, "a very long caption that does not fit below it")]))))
    cell = sheet[8:168, 8:168]
    assert (cell[40:120] == (200, 10, 30)).all()
    assert (cell[:40] == 0xE5).all(axis=1)[:, 0].all()
