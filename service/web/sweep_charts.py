"""A sweep as SVG: what each trial was worth, and which values led there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from service.contract.messages import SweepBoard, TrialView
from service.web.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, figure_of, frame, scale
from service.web.words import figure, short

_LOG_FROM = 8.0
"""Ratio of the largest to the least value from which an option's axis is logarithmic."""
_WIDE = 900
_TALL = 270
_EDGE = 70

STATE_MARKS = {"finished": "finished", "stopped early": "stopped early", "running": "running", "failed": "failed"}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each option by the end of its path, as much of it as tells it from the others."""
    found = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            tail = parts[-length:]
            if sum(other.split(".")[-length:] == tail for other in paths) == 1:
                found[path] = " ".join(tail).replace("_", " ")
                break
        else:
            found[path] = path
    return found


def options_of(trials: Sequence[TrialView]) -> list[str]:
    """The options that are varied, by path."""
    return list(dict.fromkeys(path for trial in trials for path in trial.values))


def objective_chart(board: SweepBoard) -> Markup:
    """Each trial by number, and the best so far; how a trial ended is its shape as well as its colour."""
    judged = sorted((t for t in board.trials if t.objective is not None), key=lambda trial: trial.number)
    if not judged:
        return Markup("")
    objectives = [trial.objective for trial in judged if trial.objective is not None]
    across = scale([0.0, float(max(board.wanted - 1, judged[-1].number, 1))], LEFT + 8, WIDTH - RIGHT - 8, tight=True)
    up = scale(objectives, HEIGHT - BOTTOM, TOP)
    parts = [frame(across, up, x_label="trial"), _best_so_far(board, judged, across, up)]
    for trial, objective in zip(judged, objectives, strict=True):
        words = f"trial {trial.number}: {figure(objective)}, {trial.state}"
        parts.append(_mark(trial.state, across(trial.number), up(objective), words))
    legend = [
        Markup('<li><svg class="key" viewBox="0 0 22 12" aria-hidden="true">{}</svg><span>{}</span></li>').format(
            _mark(state, 11, 6, ""), state
        )
        for state in dict.fromkeys(trial.state for trial in judged)
    ]
    legend.append(
        Markup('<li><svg class="key best-line" viewBox="0 0 22 8" aria-hidden="true"><path d="M0 4H22"/></svg>')
        + Markup("<span>best so far</span></li>")
    )
    words = f"{board.metric} of {len(judged)} trials, from {figure(min(objectives))} to {figure(max(objectives))}"
    return figure_of("Objective over trials", board.metric, Markup("").join(parts), words, Markup("").join(legend))


def parallel_coordinates(board: SweepBoard) -> Markup:
    """Each judged trial as a line through its values to what it was worth; the best is drawn strongest."""
    judged = [trial for trial in board.trials if trial.objective is not None]
    paths = options_of(judged)
    if len(judged) < 2 or not paths:
        return Markup("")
    best = next((trial for trial in judged if trial.state == "finished"), None)
    places = [_places([trial.values.get(path) for trial in judged]) for path in paths]
    objectives = [trial.objective or 0.0 for trial in judged]
    low, high = min(objectives), max(objectives)
    heights = [(value - low) / (high - low) if high > low else 0.5 for value in objectives]
    ends = (short(low), short(high))
    if board.mode == "min":  # the better end is always up
        heights, ends = [1 - height for height in heights], (ends[1], ends[0])
    places.append((heights, *ends))
    xs = [_EDGE + index * (_WIDE - 2 * _EDGE) / (len(places) - 1) for index in range(len(places))]
    top, bottom = 46, _TALL - 26
    lines = []
    for index in sorted(range(len(judged)), key=lambda index: judged[index] is best):  # the best is drawn last
        trial = judged[index]
        points = " ".join(
            f"{x:.1f},{bottom - column[0][index] * (bottom - top):.1f}" for x, column in zip(xs, places, strict=True)
        )
        kind = "best" if trial is best else "finished" if trial.state == "finished" else "early"
        values = ", ".join(f"{path} {_shown(trial.values.get(path))}" for path in paths)
        words = f"trial {trial.number}: {board.metric} {figure(trial.objective)}; {values}"
        lines.append(
            Markup('<polyline class="trial {}" points="{}"><title>{}</title></polyline>').format(kind, points, words)
        )
    names = [*short_names(paths).values(), board.metric]
    axes = [_axis(x, top, bottom, name, column) for x, name, column in zip(xs, names, places, strict=True)]
    legend = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true"><path class="trial {}" d="M0 4H22"/></svg>'
        ).format(kind)
        + Markup("<span>{}</span></li>").format(words)
        for kind, words in (("best", "best"), ("finished", "finished"), ("early", "not finished"))
    )
    words = f"{len(judged)} trials by {len(paths)} options"
    if best is not None:
        words += f"; the best is trial {best.number} with {figure(best.objective)}"
    drawing = Markup("").join([*axes, *lines])
    return figure_of("From values to worth", "", drawing, words, legend, size=(_WIDE, _TALL))


def _best_so_far(board: SweepBoard, judged: Sequence[TrialView], across: Scale, up: Scale) -> Markup:
    better = max if board.mode == "max" else min
    best, path = None, ""
    for trial in judged:
        # A trial that was stopped early was judged at another epoch: it is no record.
        if trial.objective is None or trial.state != "finished":
            continue
        now = trial.objective if best is None else better(best, trial.objective)
        x = f"{across(trial.number):.1f}"
        path += f"M{x} {up(now):.1f}" if best is None else f"H{x}V{up(now):.1f}"
        best = now
    if best is None:
        return Markup("")
    return Markup('<path class="best-line" d="{}"/>').format(f"{path}H{across(judged[-1].number):.1f}")


def _mark(state: str, x: float, y: float, words: str) -> Markup:
    name = STATE_MARKS.get(state, "running").replace(" ", "-")
    title = Markup("<title>{}</title>").format(words) if words else Markup("")
    if name == "failed":
        d = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
        return Markup('<path class="mark failed" d="{}">{}</path>').format(d, title)
    if name == "running":
        d = f"M{x - 3.5:.1f} {y - 4.5:.1f}l8 4.5l-8 4.5z"
        return Markup('<path class="mark running" d="{}">{}</path>').format(d, title)
    return Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="4">{}</circle>').format(name, x, y, title)


def _places(values: Sequence[object]) -> tuple[list[float], str, str]:
    """Where values lie on an axis, from 0 to 1, and what stands at its ends."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        ends = (short(low), short(high))
        if low > 0 and high / low >= _LOG_FROM:
            numbers, low, high = [math.log(v) for v in numbers], math.log(low), math.log(high)
        return [(v - low) / (high - low) if high > low else 0.5 for v in numbers], *ends
    words = [_shown(value) for value in values]
    kinds = sorted(set(words))
    return [kinds.index(word) / max(len(kinds) - 1, 1) for word in words], kinds[0], kinds[-1]


def _shown(value: object) -> str:
    return figure(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _axis(x: float, top: float, bottom: float, name: str, column: tuple[list[float], str, str]) -> Markup:
    _, low, high = column
    return Markup(
        '<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        '<text class="label strong" x="{x:.1f}" y="{name_y}" text-anchor="middle">{name}</text>'
        '<text class="tick" x="{x:.1f}" y="{high_y}" text-anchor="middle">{high}</text>'
        '<text class="tick" x="{x:.1f}" y="{low_y}" text-anchor="middle">{low}</text>'
    ).format(x=x, top=top, bottom=bottom, name=name, name_y=14, high=high, high_y=top - 8, low=low, low_y=bottom + 16)
