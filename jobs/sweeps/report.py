"""What a sweep gave, as rows for programs and as one HTML file with pictures for people."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from jobs.spec import Sweep
from jobs.sweeps import figures
from jobs.sweeps.ledger import Trial, best_of, ranked

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 1080px; margin: 2.5em auto; padding: 0 1.5em; }
h1 { font-size: 1.6em; margin-bottom: 0.2em; } h2 { font-size: 1.15em; margin-top: 2.2em; }
table { border-collapse: collapse; width: 100%; font-size: 13px; } img { max-width: 100%; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid #e5e7eb; vertical-align: top; }
.best { background: #ecfdf5; font-weight: 600; } .faint { color: #6b7280; }
"""


def column_names(sweep: Sweep) -> list[str]:
    """The columns of `as_rows`."""
    return ["trial", "status", "epoch", "objective", "seeds", "reason", *sweep.space]


def as_rows(sweep: Sweep, trials: Sequence[Trial]) -> list[dict[str, object]]:
    """One flat row for each trial, the best first: what became of it, then the value of each option by its path."""
    return [
        {
            "trial": trial.number,
            "status": trial.status,
            "epoch": trial.epoch,
            "objective": trial.objective,
            "seeds": " ".join(f"{value:g}" for value in trial.seeds),
            "reason": trial.reason,
            **{path: trial.values[path] for path in sweep.space},
        }
        for trial in ranked(list(trials), mode=sweep.spec.objective.mode)
    ]


def write_report(sweep: Sweep, trials: Sequence[Trial], into: Path, *, sweep_id: str) -> Path:
    """Write the report and its pictures into a folder; returns the HTML file, which needs no other.

    Args:
        sweep: What was searched.
        trials: What became of each.
        into: An existing folder.
        sweep_id: For the heading.
    """
    best = best_of(list(trials), mode=sweep.spec.objective.mode)
    counts = {status: sum(trial.status == status for trial in trials) for status in ("finished", "stopped early")}
    counts |= {status: sum(trial.status == status for trial in trials) for status in ("failed", "running")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial yet"
    parts = [
        f"<h1>{html.escape(sweep_id)}</h1>",
        f"<p class=faint>{html.escape(sweep.metric)}, {sweep.epochs} epochs a trial: {html.escape(told)}</p>",
        _headline(sweep, trials, best),
    ]
    if any(trial.objective is not None and trial.ended is not None for trial in trials):
        for title, sentence, picture in _pictures(sweep, trials, into):
            data = base64.b64encode(picture.read_bytes()).decode()
            parts.append(f"<h2>{title}</h2><p>{sentence}</p>")
            parts.append(f'<img alt="{title}" src="data:image/png;base64,{data}">')
    parts.append("<h2>All trials</h2>" + _table(sweep, trials, best))
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(sweep_id)}</title><style>{_STYLE}</style>"
    file = into / "report.html"
    file.write_text(page + "\n".join(parts), encoding="utf-8")
    return file


def _pictures(sweep: Sweep, trials: Sequence[Trial], into: Path) -> list[tuple[str, str, Path]]:
    drawn = [
        (
            "From values to worth",
            "Each line is a trial. Where lines that end high bundle on an axis, that option has a good range; the best "
            "trial is green, those that were stopped early are grey.",
            figures.parallel_coordinates(sweep, trials, into / "parallel-coordinates.png"),
        ),
        (
            "What matters",
            "How much of the differences between trials each option explains by itself (fANOVA). With few trials this "
            "is a hint.",
            figures.importance(sweep, trials, into / "importance.png"),
        ),
        (
            "Option by option",
            "Hollow trials were stopped early: their objective is that of their last rung.",
            figures.objective_by_option(sweep, trials, into / "objective-by-option.png"),
        ),
        (
            "Who went on",
            "How many trials came to each rung, and how each one rose; a cross is where one was stopped.",
            figures.rung_survival(sweep, trials, into / "rungs.png"),
        ),
    ]
    return [(title, sentence, path) for title, sentence, path in drawn if path is not None]


def _headline(sweep: Sweep, trials: Sequence[Trial], best: Trial | None) -> str:
    if best is None or best.objective is None:
        return "<p><b>No trial has come to its end.</b></p>"
    told = f"<p><b>Trial {best.number} is the best: {best.objective:.4g} after {best.epoch} epochs.</b>"
    base = sweep.point_of_base()
    of_base = next((trial for trial in trials if trial.values == base), None)
    if base is None:
        return f"{told}</p>"
    if of_base is best:
        return f"{told} These are the base's own values.</p>"
    if of_base is not None and of_base.objective is not None:
        told += f" The base's own values gave {of_base.objective:.4g} after {of_base.epoch} epochs."
    rows = "".join(
        f"<tr><td>{html.escape(path)}<td>{html.escape(_shown(best.values[path]))}<td>{html.escape(_shown(base[path]))}"
        for path in sweep.space
    )
    return f"{told}</p><table><tr><th>option<th>best<th>base{rows}</table>"


def _table(sweep: Sweep, trials: Sequence[Trial], best: Trial | None) -> str:
    rows = as_rows(sweep, trials)
    names = list(rows[0]) if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = []
    for row in rows:
        cells = "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row.values())
        marked = " class=best" if best is not None and row["trial"] == best.number else ""
        body.append(f"<tr{marked}>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
