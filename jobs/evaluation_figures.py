"""An evaluation as pictures: the confusion matrix, a bar for each class, and a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.judging import Judgement
from jobs.tracking.figures import INK, SERIES, new_figure, save_figure

_MOST_NAMED = 40  # classes whose numbers can still be read beside their rows


def write_figures(judgement: Judgement, folder: Path, *, title: str) -> list[Path]:
    """Draw the linear classifier's confusion matrix and each class's accuracy, and write the latter as CSV.

    Args:
        judgement: What was found.
        folder: Where the files go; created.
        title: Heading of the pictures.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.array(judgement["confusion"], dtype=np.int64)
    return [
        draw_confusion(counts, folder / "confusion.png", title=title),
        draw_classes(counts, folder / "classes.png", title=title),
        write_classes(counts, folder / "classes.csv"),
    ]


def draw_confusion(counts: NDArray[np.int64], path: Path, *, title: str) -> Path:
    """Draw which classes are taken for which, each row in per cent of its class.

    Args:
        counts: Pictures of class i that were taken for class j, [classes, classes].
        path: PNG to write.
        title: Heading.
    """
    share = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.0 + 0.45 * len(counts), 4.5, 12.0))
    figure = new_figure(side + 1.0, side)
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if len(counts) <= _MOST_NAMED:
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
    if len(counts) <= 20:
        for row, column in np.argwhere(share >= 0.5):
            dark = share[row, column] > 55
            axes.text(
                column, row, f"{share[row, column]:.0f}", ha="center", va="center", color="white" if dark else INK
            )
    figure.colorbar(picture, ax=axes, label="% of the class", shrink=0.8)
    figure.suptitle(f"{title}: confusion of the linear probe", x=0.01, ha="left", fontweight="bold", color=INK)
    return save_figure(figure, path)


def draw_classes(counts: NDArray[np.int64], path: Path, *, title: str) -> Path:
    """Draw each class's accuracy as a bar, the worst on top.

    Args:
        counts: As in `draw_confusion`.
        path: PNG to write.
        title: Heading.
    """
    right = class_accuracies(counts)
    order = np.argsort(-right, kind="stable")
    figure = new_figure(7.0, float(np.clip(1.2 + 0.28 * len(counts), 2.5, 40.0)))
    axes = figure.subplots()
    axes.barh([str(label) for label in order], right[order], color=SERIES[0])
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, % of the class")
    axes.set_ylabel("class")
    figure.suptitle(f"{title}: accuracy by class", x=0.01, ha="left", fontweight="bold", color=INK)
    return save_figure(figure, path)


def write_classes(counts: NDArray[np.int64], path: Path) -> Path:
    """Write a row for each class: pictures, how many were right (recall), how many taken for it were (precision)."""
    right = class_accuracies(counts)
    taken = counts.sum(axis=0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "pictures", "recall", "precision", "most often taken for"])
        for label in range(len(counts)):
            others = counts[label].copy()
            others[label] = 0
            precision = 100.0 * counts[label, label] / max(taken[label], 1)
            other = int(others.argmax()) if others.any() else ""
            writer.writerow([label, int(counts[label].sum()), f"{right[label]:.2f}", f"{precision:.2f}", other])
    return path


def class_accuracies(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part of each class that was recognised, in per cent, float64 [classes]; 0 where it has no pictures."""
    correct: NDArray[np.float64] = 100.0 * np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
    return correct
