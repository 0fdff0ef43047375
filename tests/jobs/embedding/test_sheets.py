"""Sheets of neighbours: no picture is its own neighbour, and pictures without a label are of no class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from jobs.embedding.sheets import neighbour_sheet


def pictures(count: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), 255 * number // count, np.uint8) for number in range(count)]


def drawn(path: Path, features: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    neighbour_sheet(features.astype(np.float32), pictures(len(features)), labels, path)
    return np.asarray(Image.open(path))


def test_a_query_is_left_out_where_an_earlier_picture_has_the_same_vector(tmp_path: Path) -> None:
    # Nearly the same vectors: the query itself is found first, and the figures are those of equal ones.
    near = drawn(tmp_path / "near.png", np.array([[1, 0], [1, 1e-3]]))
    equal = drawn(tmp_path / "equal.png", np.array([[1, 0], [1, 0]]))
    np.testing.assert_array_equal(equal, near)


def test_a_query_behind_more_duplicates_than_are_shown_has_its_neighbours(tmp_path: Path) -> None:
    assert drawn(tmp_path / "sheet.png", np.ones((20, 3))).size


def test_pictures_without_a_label_are_not_marked_as_of_one_class(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    none = drawn(tmp_path / "none.png", features, np.full(6, -1))
    different = drawn(tmp_path / "different.png", features, np.arange(6))
    same = drawn(tmp_path / "same.png", features, np.zeros(6, np.int64))
    np.testing.assert_array_equal(none, different)
    assert (none != same).any()
