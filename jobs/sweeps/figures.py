"""A sweep in pictures: which values did well, which options matter, who was stopped when."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jobs.spec import Sweep
from jobs.sweeps.ledger import Trial, best_of
from jobs.tracking.figures import CORRECT, FAINT, INK, SERIES, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST_FOR_IMPORTANCE = 4


def parallel_coordinates(sweep: Sweep, trials: Sequence[Trial], path: Path) -> Path:
    """Draw each judged trial as a line through its values to its objective; the best is drawn strongest."""
    shown = [trial for trial in trials if trial.objective is not None]
    best = best_of(list(trials), mode=sweep.spec.objective.mode)
    names = list(sweep.space)
    figure = new_figure(2.1 * (len(names) + 1) + 1, 4.8)
    axes = figure.subplots()
    columns = [_places(sweep, name, shown) for name in names]
    objectives = np.array([trial.objective for trial in shown], dtype=np.float64)
    low, high = (float(objectives.min()), float(objectives.max())) if len(shown) else (0.0, 1.0)
    height = (objectives - low) / max(high - low, 1e-12)
    least_is_best = sweep.spec.objective.mode == "min"
    columns.append(1 - height if least_is_best else height)
    worst, finest = (high, low) if least_is_best else (low, high)  # the better end is always up
    for index, trial in enumerate(shown):
        line = [column[index] for column in columns]
        strong = trial is best
        colour = CORRECT if strong else SERIES[0] if trial.status == "finished" else FAINT
        axes.plot(line, color=colour, linewidth=3.0 if strong else 1.4, zorder=3 if strong else 2, alpha=0.9)
    for place, name in enumerate(names):
        bottom, top = _ends(sweep, name)
        axes.text(place, -0.04, bottom, ha="center", va="top", fontsize=9, color=INK)
        axes.text(place, 1.03, top, ha="center", va="bottom", fontsize=9, color=INK)
    axes.text(len(names), -0.04, f"{worst:.4g}", ha="center", va="top", fontsize=9, color=INK)
    axes.text(len(names), 1.03, f"{finest:.4g}", ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_xticks(range(len(names) + 1), [_label(name) for name in names] + [sweep.metric], fontsize=9, color=INK)
    axes.tick_params(axis="x", length=0, pad=22)
    axes.set_yticks([])
    for place in range(len(names) + 1):
        axes.axvline(place, color=INK, linewidth=0.8, zorder=1)
    axes.set_ylim(-0.02, 1.02)
    axes.spines[:].set_visible(False)
    axes.set_title("Each trial, from its values to what it was worth", loc="left", fontsize=13, color=INK, pad=24)
    return save_figure(figure, path)


def objective_by_option(sweep: Sweep, trials: Sequence[Trial], path: Path) -> Path:
    """Draw the objective against each option by itself; trials that were stopped early are hollow."""
    names = list(sweep.space)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns, 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        dimension = sweep.space[name]
        for status, filled in (("finished", True), ("stopped early", False)):
            chosen = [trial for trial in trials if trial.status == status and trial.objective is not None]
            x = [dimension.values.index(t.values[name]) if dimension.values else t.values[name] for t in chosen]
            y = [trial.objective for trial in chosen]
            face = SERIES[0] if filled else "white"
            panel.scatter(x, y, s=42, color=face, edgecolors=SERIES[0], linewidths=1.3, label=status, zorder=2)
        if dimension.kind == "loguniform":
            panel.set_xscale("log")
        if dimension.values:
            panel.set_xticks(range(len(dimension.values)), [str(value) for value in dimension.values])
        panel.set_xlabel(_label(name).replace("\n", " "))
        panel.set_ylabel(sweep.metric)
        _plain(panel)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    panels[0].legend(frameon=False, fontsize=9)
    _title(figure, "What each trial was worth, by the value of one option")
    return save_figure(figure, path)


def rung_survival(sweep: Sweep, trials: Sequence[Trial], path: Path) -> Path:
    """Draw how many trials reached each rung, and the objective of each trial on its way."""
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2)
    counts = [sum(trial.epoch >= rung for trial in trials) for rung in sweep.rungs]
    places = range(len(sweep.rungs))
    left.bar(places, counts, color=SERIES[0], width=0.6)
    for place, count in zip(places, counts, strict=True):
        left.text(place, count, f"{count}", ha="center", va="bottom", color=INK)
    left.set_xticks(places, [f"epoch {rung}" for rung in sweep.rungs])
    left.set_ylabel("trials that came so far")
    best = best_of(list(trials), mode=sweep.spec.objective.mode)
    for trial in trials:
        epochs = sorted(trial.points)
        colour = CORRECT if trial is best else SERIES[0] if trial.status == "finished" else "#9ca3af"
        values = [trial.points[epoch] for epoch in epochs]
        right.plot(epochs, values, color=colour, linewidth=2.4 if trial is best else 1.2, marker="o", markersize=3)
        if trial.status == "stopped early" and epochs:
            right.plot(epochs[-1], values[-1], marker="x", color=colour, markersize=8)
    right.set_xlabel("epoch")
    right.set_ylabel(sweep.metric)
    for panel in (left, right):
        _plain(panel)
    _title(figure, "Who went on, and how each trial rose")
    return save_figure(figure, path)


def importance(sweep: Sweep, trials: Sequence[Trial], path: Path) -> Path | None:
    """Draw how much of the differences each option explains; None where there are too few trials to tell."""
    found = importances(sweep, trials)
    if not found:
        return None
    names = sorted(found, key=lambda name: found[name])
    figure = new_figure(8.0, 0.5 * len(names) + 1.2)
    axes = figure.subplots()
    axes.barh(range(len(names)), [found[name] for name in names], color=SERIES[0], height=0.6)
    axes.set_yticks(range(len(names)), [_label(name).replace("\n", " ") for name in names])
    axes.set_xlabel("part of the differences in the objective that the option explains")
    _plain(axes)
    _title(figure, "Which option makes the difference")
    return save_figure(figure, path)


def importances(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, float]:
    """How much each option explains of the objective's variance (fANOVA, Hutter et al. 2014); they add up to 1.

    Empty where fewer than four trials were judged, or all alike.
    """
    import optuna

    from jobs.sweeps.distributions import distribution, encoded

    judged = [trial for trial in trials if trial.objective is not None]
    if len(judged) < _LEAST_FOR_IMPORTANCE or len({trial.objective for trial in judged}) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if sweep.spec.objective.mode == "max" else "minimize")
    space = {name: distribution(dimension) for name, dimension in sweep.space.items()}
    for trial in judged:
        values = encoded(sweep.space, trial.values)
        study.add_trial(optuna.trial.create_trial(params=values, distributions=space, value=trial.objective))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(value) for name, value in found.items()}


def _places(sweep: Sweep, name: str, trials: Sequence[Trial]) -> npt.NDArray[np.float64]:
    """Where the values of an option lie on its axis, from 0 to 1."""
    dimension = sweep.space[name]
    if dimension.values:
        places = [dimension.values.index(trial.values[name]) for trial in trials]
        return np.array(places, dtype=np.float64) / max(len(dimension.values) - 1, 1)
    values = np.array([trial.values[name] for trial in trials], dtype=np.float64)
    ends = np.array([dimension.low, dimension.high], dtype=np.float64)
    if dimension.kind == "loguniform":
        values, ends = np.log(values), np.log(ends)
    return np.interp(values, ends, [0.0, 1.0])


def _ends(sweep: Sweep, name: str) -> tuple[str, str]:
    dimension = sweep.space[name]
    if dimension.values:
        return str(dimension.values[0]), str(dimension.values[-1])
    return f"{dimension.low:g}", f"{dimension.high:g}"


def _label(name: str) -> str:
    return "\n".join(name.removeprefix("method.").split(".")).replace("_", " ")


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, color=INK)


def _plain(axes: Axes) -> None:
    axes.grid(color=FAINT, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
