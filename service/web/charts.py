"""Line charts as SVG that the server draws: axes with units, a legend with the last values, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from service.web.words import figure, short

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
SERIES = 7
"""Series that look different; the style sheet has a colour and a dash for each."""
_SMOOTHED_FROM = 200
_DRAWN = 160
"""Columns that a long series is drawn in: each keeps its lowest and its highest point."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: In the legend.
        points: By x, at least one.
        marked: Draw its points, too: for what is measured now and then.
    """

    name: str
    points: Sequence[Point]
    marked: bool = False


@dataclass(frozen=True)
class Scale:
    """Where values lie on an axis.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: In pixels.
        end: In pixels.
        ticks: Values that get a label.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scale(values: Sequence[float], start: float, end: float, *, tight: bool = False, ticks: int = 5) -> Scale:
    """An axis that holds all values, with labels at round ones.

    Args:
        values: At least one.
        start: Pixel of the least.
        end: Pixel of the largest.
        tight: Begin and end at the values themselves rather than at round ones.
        ticks: About so many labels.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) * 0.1 or 1.0
        low, high, tight = low - margin, high + margin, False
    raw = (high - low) / max(ticks - 1, 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(each * unit for each in (1, 2, 2.5, 5, 10) if each * unit >= raw * 0.999)
    if not tight:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Scale(low, high, start, end, tuple(round(index * step, 12) for index in range(first, last + 1)))


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    unit: str = "",
    x_label: str = "pictures seen",
    references: Sequence[tuple[str, float]] = (),
) -> Markup:
    """Draw lines against a common axis; values that are no numbers are left out.

    Args:
        series: At most `SERIES` are drawn.
        title: What is measured.
        unit: Of the values.
        x_label: What they are drawn against.
        references: Names and values of horizontal lines to compare with.
    """
    shown = [
        Series(each.name, [p for p in each.points if math.isfinite(p[1])], each.marked) for each in series[:SERIES]
    ]
    shown = [each for each in shown if each.points]
    if not shown:
        return Markup("")
    across = scale([x for each in shown for x, _ in each.points], LEFT, WIDTH - RIGHT, tight=True)
    values = [y for each in shown for _, y in each.points] + [value for _, value in references]
    up = scale(values, HEIGHT - BOTTOM, TOP)
    parts = [frame(across, up, x_label=x_label)]
    parts += [_reference(f"r{index}", name, up(value)) for index, (name, value) in enumerate(references)]
    parts += [_line(index, each, across, up) for index, each in enumerate(shown)]
    words = f"{title}: " + "; ".join(f"{each.name} {figure(each.points[-1][1])}" for each in shown)
    legend = [_entry(f"s{index}", each.name, each.points[-1][1]) for index, each in enumerate(shown)]
    legend += [_entry(f"reference r{index}", name, value) for index, (name, value) in enumerate(references)]
    return figure_of(
        title,
        unit,
        Markup("").join(parts),
        words,
        Markup("").join(legend),
        data=(across.low, across.high, up.low, up.high),
    )


def figure_of(
    title: str,
    unit: str,
    drawing: Markup,
    words: str,
    legend: Markup,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    data: tuple[float, float, float, float] | None = None,
) -> Markup:
    """A drawing with its heading and its legend.

    Args:
        title: Heading.
        unit: Of what is drawn.
        drawing: The inside of the SVG.
        words: The same for who cannot see it.
        legend: Items of a list.
        size: Width and height.
        data: Ends of both axes, for the script that reads values off under the pointer.
    """
    measured = Markup("")
    if data is not None:
        box = (LEFT, size[0] - RIGHT, size[1] - BOTTOM, TOP)
        measured = Markup(' data-ends="{}" data-box="{}"').format(
            " ".join(f"{value:.9g}" for value in data), " ".join(map(str, box))
        )
    heading = Markup("<figcaption>{}{}</figcaption>").format(
        title, Markup(' <span class="faint">{}</span>').format(unit) if unit else ""
    )
    picture = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        *size, words, measured, drawing
    )
    listed = Markup('<ul class="legend">{}</ul>').format(legend) if legend else Markup("")
    return Markup('<figure class="chart">{}{}{}</figure>').format(heading, picture, listed)


def frame(across: Scale, up: Scale, *, x_label: str, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """Grid lines, ticks and the name of the axis below."""
    parts = []
    for value in up.ticks:
        y = up(value)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, width - RIGHT, y, y)
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                LEFT - 6, y + 3.5, short(value)
            )
        )
    for value in across.ticks:
        x = across(value)
        anchor = "end" if x > width - RIGHT - 12 else "middle"
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                x, height - BOTTOM + 14, anchor, short(value)
            )
        )
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(LEFT, width - RIGHT, y=height - BOTTOM)
    )
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(
            width - RIGHT, height - 4, x_label
        )
    )
    return Markup("").join(parts)


def _reference(kind: str, name: str, y: float) -> Markup:
    return Markup(
        '<line class="reference {}" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"><title>{}</title></line>'
    ).format(kind, LEFT, WIDTH - RIGHT, name, y=y)


def _entry(kind: str, name: str, value: float) -> Markup:
    """A line of the legend, with the value the series ends at."""
    return Markup(
        '<li><svg class="key {}" viewBox="0 0 22 8" aria-hidden="true"><path d="M0 4H22"/></svg>'
        "<span>{}</span> <b>{}</b></li>"
    ).format(kind, name, figure(value))


def _line(index: int, series: Series, across: Scale, up: Scale) -> Markup:
    parts, points = [], series.points
    if len(points) > _SMOOTHED_FROM and not series.marked:
        parts.append(
            Markup('<polyline class="raw s{}" points="{}"/>').format(index, _pixels(_thinned(points), across, up))
        )
        points = _thinned(_smoothed(points))
    drawn = _pixels(points, across, up)
    parts.append(Markup('<polyline class="line s{}" data-name="{}" points="{}"/>').format(index, series.name, drawn))
    if series.marked or len(points) == 1:
        parts += [
            Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(index, across(x), up(y))
            for x, y in points
        ]
    return Markup("").join(parts)


def _pixels(points: Sequence[Point], across: Scale, up: Scale) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """The centred moving average, over fewer values at the ends: as `jobs.tracking.figures` draws it."""
    half = len(points) // 120
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    found = []
    for index, (x, _) in enumerate(points):
        low, high = max(index - half, 0), min(index + half + 1, len(points))
        found.append((x, (sums[high] - sums[low]) / (high - low)))
    return found


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Fewer points of the same shape: the lowest and the highest of each column of pixels."""
    if len(points) <= 2 * _DRAWN:
        return list(points)
    kept: list[Point] = [points[0]]
    for column in range(_DRAWN):
        part = points[column * len(points) // _DRAWN : (column + 1) * len(points) // _DRAWN]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [*kept, points[-1]]
