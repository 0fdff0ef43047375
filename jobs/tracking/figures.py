"""Pictures for people: curves of a training run, nearest neighbours, and a map of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK = "#1f2937"
FAINT = "#d1d5db"
CORRECT = "#15803d"
WRONG = "#dc2626"
QUERY = "#1f2937"
SERIES = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#6b7280")
LOSS_NAMES = {
    "train/loss": "total",
    "train/contrast": "contrast",
    "train/global_relation": "global relation",
    "train/local_relation": "local relation",
}

Image = npt.NDArray[np.uint8]


def training_curves(records: Sequence[Mapping[str, float]], path: Path, *, title: str = "Training") -> Path:
    """Draw the loss terms and, where it was measured, k-NN accuracy, both against pictures seen.

    Args:
        records: One mapping per logged step in order, as `TrackedRun.history` gives them: `step`, `pictures`, metrics.
            `LOSS_NAMES` are the losses; names whose last part begins with `knn` are accuracies in percent.
        path: PNG to write.
        title: Heading of the figure.

    Raises:
        ValueError: No record holds a loss.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    losses = [name for name in LOSS_NAMES if name in names]
    accuracies = [name for name in names if name.split("/")[-1].startswith("knn")]
    if not losses:
        raise ValueError(f"no record holds any of {', '.join(LOSS_NAMES)}")
    axis = "pictures" if all("pictures" in record for record in records) else "step"
    figure = new_figure(10.5 if accuracies else 7.0, 4.4)
    panels = figure.subplots(1, 2 if accuracies else 1, squeeze=False)[0]
    _curves(panels[0], records, losses, axis, [LOSS_NAMES[name] for name in losses])
    panels[0].set_ylabel("loss")
    if accuracies:
        labels = [name.replace("knn", "k-NN").replace("/", " ") for name in accuracies]
        _curves(panels[1], records, accuracies, axis, labels, marker="o")
        panels[1].set_ylabel("k-NN accuracy (%)")
    figure.suptitle(title, x=0.01, ha="left", fontsize=15, fontweight="bold", color=INK)
    return save_figure(figure, path)


def overlaid_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]], metrics: Mapping[str, str], path: Path, *, title: str
) -> Path:
    """Draw several runs into one panel per metric, against pictures seen.

    Args:
        runs: Records of each run, as for `training_curves`, under the name it has in the legend.
        metrics: What to draw: the metric's name and the label of its axis. A run without it is left out of that panel.
        path: PNG to write.
        title: Heading of the figure.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not runs or not metrics:
        raise ValueError("curves need at least one run and one metric")
    figure = new_figure(5.2 * len(metrics), 4.4)
    for panel, (metric, label) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics.items(), strict=True):
        marker = "o" if metric.split("/")[-1].startswith("knn") else ""
        for colour, (name, records) in zip(cycle(SERIES), runs.items(), strict=False):
            if any(metric in record for record in records):
                _curve(panel, records, metric, "pictures", name, colour, marker=marker)
        _finish(panel, "pictures")
        panel.set_ylabel(label)
    figure.suptitle(title, x=0.01, ha="left", fontsize=15, fontweight="bold", color=INK)
    return save_figure(figure, path)


def contact_sheet(
    rows: Sequence[Sequence[Image]],
    path: Path,
    *,
    titles: Sequence[Sequence[str]] | None = None,
    correct: Sequence[Sequence[bool]] | None = None,
    title: str = "Nearest neighbours",
) -> Path:
    """Draw one row per query: the query, then its nearest neighbours, nearest first.

    Args:
        rows: Pictures, uint8 [h, w, 3] or [h, w]; the first of each row is the query.
        path: PNG to write.
        titles: Label under each picture, in the shape of `rows`.
        correct: Whether a picture is of its query's class, in the shape of `rows`, for the colour of its frame; the
            query's own entry is not used. Frames are grey without it.
        title: Heading of the sheet.

    Raises:
        ValueError: There is no picture, or `titles` or `correct` have another shape than `rows`.
    """
    from matplotlib.patches import Rectangle

    if not rows or not all(rows):
        raise ValueError("a contact sheet needs at least one row with a query")
    for given in (titles, correct):
        if given is not None and [len(row) for row in given] != [len(row) for row in rows]:
            raise ValueError("labels and pictures differ in number")
    columns = max(len(row) for row in rows)
    cell, label = 1.0, 0.26 if titles else 0.06
    # A gap after the query, half a cell of margin for headings.
    width, height = (columns + 0.25) * cell + 0.2, len(rows) * (cell + label) + (0.95 if correct else 0.75)
    figure = new_figure(width, height, layout=None)
    heading = figure.text(0.1 / width, 1 - 0.08 / height, title, ha="left", va="top", fontsize=13, color=INK)
    heading.set_fontweight("bold")
    top = height - 0.62
    figure.text((0.1 + cell / 2) / width, (top + 0.04) / height, "query", ha="center", fontsize=9, color=INK)
    if columns > 1:
        x = (0.1 + cell * 1.25) / width
        figure.text(x, (top + 0.04) / height, "nearest first →", ha="left", fontsize=9, color=INK)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            left = 0.1 + j * cell + (0.25 * cell if j else 0.0)
            bottom = top - (i + 1) * (cell + label) + label
            axes = figure.add_axes((left / width, bottom / height, 0.92 * cell / width, 0.92 * cell / height))
            axes.imshow(
                picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if max(picture.shape) < 100 else None
            )
            axes.set_axis_off()
            colour = QUERY if j == 0 else FAINT if correct is None else CORRECT if correct[i][j] else WRONG
            frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, linewidth=5.0, edgecolor=colour)
            axes.add_patch(frame)
            if titles:
                x, y = (left + 0.46 * cell) / width, (bottom - 0.05) / height
                figure.text(x, y, _shortened(titles[i][j]), ha="center", va="top", fontsize=8, color=INK)
    if correct is not None:
        judged = [each for row in correct for each in row[1:]]
        text = f"green: same label as the query ({sum(judged)} of {len(judged)});  red: another label"
        figure.text(0.1 / width, 0.07 / height, text, ha="left", va="bottom", fontsize=9, color=INK)
    return save_figure(figure, path, tight=False)


def embedding_map(
    points: npt.NDArray[np.floating],
    labels: Sequence[object] | npt.NDArray[np.generic] | None,
    path: Path,
    *,
    title: str,
    thumbnails: Sequence[Image] | None = None,
) -> Path:
    """Draw embeddings as points in the plane, coloured by label, or as the pictures themselves.

    Args:
        points: float [n, 2], two-dimensional coordinates of the embeddings.
        labels: One per point, or None.
        path: PNG to write.
        title: Heading of the map.
        thumbnails: One uint8 [h, w, 3] or [h, w] per point; as many are drawn as fit without covering each other.

    Raises:
        ValueError: The shapes do not fit together.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points have the shape {points.shape}, not [n, 2]")
    for given in (labels, thumbnails):
        if given is not None and len(given) != len(points):
            raise ValueError(f"{len(given)} labels or thumbnails for {len(points)} points")
    figure = new_figure(9.0, 8.0)
    axes = figure.subplots()
    classes = [] if labels is None else sorted(set(map(str, labels)), key=_natural)
    colours = _palette(len(classes))
    of_class = {name: colours[index] for index, name in enumerate(classes)}
    point_colours = [SERIES[0]] * len(points) if labels is None else [of_class[str(label)] for label in labels]
    size = float(np.clip(9000 / len(points), 6, 60))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=point_colours, alpha=0.75, linewidths=0, zorder=2)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.maximum((high - low) * 0.05, 1e-9)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    if thumbnails is not None:
        _draw_thumbnails(axes, np.asarray(points, np.float64), thumbnails, point_colours)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    if 0 < len(classes) <= 30:
        for name in classes:
            axes.scatter([], [], s=70, color=of_class[name], label=_shortened(name, 24))
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=11, labelcolor=INK, handletextpad=0.2
        )
    axes.set_title(title, loc="left", fontsize=15, fontweight="bold", color=INK, pad=12)
    return save_figure(figure, path)


def _draw_thumbnails(
    axes: Axes, points: npt.NDArray[np.float64], pictures: Sequence[Image], colours: Sequence[object]
) -> None:
    """Draw pictures at their points, skipping those that would cover one already drawn."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    cells = 30  # Pictures along each axis: a picture is a thirtieth of the map.
    axes.figure.canvas.draw()
    side = min(axes.get_window_extent().width, axes.get_window_extent().height) / cells
    low, span = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    placed = np.empty((0, 2))
    for index in range(len(points)):
        place = (points[index] - low) / span * cells
        if len(placed) and (np.abs(placed - place).max(axis=1) < 1.15).any():
            continue
        placed = np.vstack([placed, place])
        picture = pictures[index]
        image = OffsetImage(picture, zoom=0.9 * side / max(picture.shape[:2]) * 72 / axes.figure.dpi, cmap="gray")
        image.image.set_clim(0, 255)
        frame = {"edgecolor": colours[index], "linewidth": 1.6, "boxstyle": "square,pad=0"}
        axes.add_artist(AnnotationBbox(image, tuple(points[index]), frameon=True, pad=0.0, bboxprops=frame, zorder=3))


def _curves(
    axes: Axes,
    records: Sequence[Mapping[str, float]],
    names: Sequence[str],
    axis: str,
    labels: Sequence[str],
    *,
    marker: str = "",
) -> None:
    for colour, name, label in zip(cycle(SERIES), names, labels, strict=False):
        _curve(axes, records, name, axis, label, colour, marker=marker)
    _finish(axes, axis)


def _curve(
    axes: Axes,
    records: Sequence[Mapping[str, float]],
    name: str,
    axis: str,
    label: str,
    colour: str,
    *,
    marker: str,
) -> None:
    """Draw one metric of one run; its last value stands in the legend."""
    x = np.array([record[axis] for record in records if name in record], dtype=np.float64)
    y = np.array([record[name] for record in records if name in record], dtype=np.float64)
    if len(x) > 200 and not marker:
        axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        y = _smoothed(y, len(x) // 60)
    axes.plot(x, y, color=colour, linewidth=2.0, marker=marker, markersize=5, label=f"{label}  {y[-1]:.3g}")


def _finish(axes: Axes, axis: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel("pictures seen" if axis == "pictures" else "step")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color=FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10)


def _smoothed(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Return the centred moving average, over fewer values at the ends."""
    kernel = np.ones(2 * (window // 2) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _palette(number: int) -> list[tuple[float, float, float, float]]:
    import matplotlib

    if number <= 10:
        return [tuple(colour) for colour in matplotlib.colormaps["tab10"](np.arange(max(number, 1)))]
    if number <= 20:
        return [tuple(colour) for colour in matplotlib.colormaps["tab20"](np.arange(number))]
    return [tuple(colour) for colour in matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, number))]


def _natural(text: str) -> tuple[int, float, str]:
    """Sort numbers by value and before words."""
    return (0, float(text), text) if text.lstrip("-").replace(".", "", 1).isdigit() else (1, 0.0, text)


def _shortened(text: str, length: int = 14) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Return an empty figure, sizes in inches, that needs no display."""
    # Not pyplot: it keeps figures alive and asks for a display, and other threads may draw too.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, tight: bool = True) -> Path:
    """Write a figure as PNG; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", bbox_inches="tight" if tight else None, pad_inches=0.15)
    return path
