"""Figures: drawn for every input a run can give, with the marks they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.tracking.figures import contact_sheet, embedding_map, training_curves


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def has_colour(path: Path, colour: tuple[int, int, int], at_least: int = 200) -> bool:
    return int((np.abs(pixels(path) - colour).max(axis=2) < 10).sum()) >= at_least


GREEN, RED, BLUE, ORANGE = (21, 128, 61), (220, 38, 38), (37, 99, 235), (234, 88, 12)


def records(count: int) -> list[dict[str, float]]:
    return [
        {"step": i, "pictures": 64 * i, "train/loss": 5 / (1 + i), "train/global_relation": 1.0} for i in range(count)
    ]


def test_curves_show_each_loss_term_and_a_panel_for_accuracy(tmp_path: Path) -> None:
    without = training_curves(records(300), tmp_path / "new" / "a.png")
    assert has_colour(without, BLUE)
    assert has_colour(without, ORANGE)
    with_knn = [*records(300), {"step": 300, "pictures": 64 * 300, "valid/knn": 80.0}]
    assert pixels(training_curves(with_knn, tmp_path / "b.png")).shape[1] > pixels(without).shape[1] * 1.3


def test_curves_are_drawn_from_a_single_point_and_without_picture_counts(tmp_path: Path) -> None:
    assert has_colour(training_curves([{"step": 0, "train/loss": 1.0}] * 2, tmp_path / "a.png"), BLUE, 20)
    with pytest.raises(ValueError, match="train/loss"):
        training_curves([{"step": 0, "lr": 1.0}], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_frames_of_a_contact_sheet_tell_right_from_wrong(tmp_path: Path) -> None:
    row = [np.zeros((8, 8, 3), np.uint8)] * 4
    right = contact_sheet([row], tmp_path / "a.png", correct=[[True] * 4])
    assert has_colour(right, GREEN)
    assert not has_colour(right, RED)
    mixed = contact_sheet([row, row[:2]], tmp_path / "b.png", correct=[[True, True, False, True], [True, True]])
    assert has_colour(mixed, GREEN)
    assert has_colour(mixed, RED)
    plain = contact_sheet([row], tmp_path / "c.png")
    assert not has_colour(plain, GREEN)
    with pytest.raises(ValueError, match="differ in number"):
        contact_sheet([row], tmp_path / "d.png", titles=[["3"]])


def test_a_map_shows_labels_as_colours_and_pictures_as_themselves(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    labels = np.arange(60) % 3
    tab10 = [(31, 119, 180), (255, 127, 14), (44, 160, 44)]
    plain = embedding_map(points, labels, tmp_path / "a.png", title="map")
    assert all(has_colour(plain, colour, 50) for colour in tab10)
    magenta = [np.full((16, 16, 3), (200, 0, 200), np.uint8)] * 60
    drawn = embedding_map(points, labels, tmp_path / "b.png", title="map", thumbnails=magenta)
    assert has_colour(drawn, (200, 0, 200), 2000)
    assert not has_colour(plain, (200, 0, 200), 1)


def test_a_map_is_drawn_for_one_point_and_for_many_classes(tmp_path: Path) -> None:
    assert embedding_map(np.zeros((1, 2)), None, tmp_path / "a.png", title="one").is_file()
    many = embedding_map(
        np.random.default_rng(0).normal(size=(200, 2)), list(range(200)), tmp_path / "b.png", title="m"
    )
    assert many.is_file()
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        embedding_map(np.zeros((5, 3)), None, tmp_path / "c.png", title="c")
