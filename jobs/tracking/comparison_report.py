"""A comparison as rows for tables, as JSON and CSV for programs, as curves, and as one HTML file for people."""

from __future__ import annotations

import base64
import html
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.tracking.compared_groups import Group, Summary
from jobs.tracking.compared_runs import histories
from jobs.tracking.comparison import ABSENT, KINDS, Comparison
from jobs.tracking.figures import SERIES, overlaid_curves

MOST_COLUMNS = 6
"""Most groups that get a column each; more get a row each."""

Section = tuple[str, list[list[str]]]

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --faint: #6b7280; --line: #e5e7eb; --best: #ecfdf5; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --faint: #9ca3af; --line: #374151; --best: #064e3b; --page: #111827; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1080px;
  margin: 2.5em auto; padding: 0 1.5em; }
h1 { font-size: 1.6em; margin-bottom: 0.2em; } h2 { font-size: 1.15em; margin-top: 2.2em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; min-width: 5em; }
td { font-variant-numeric: tabular-nums; } .best { background: var(--best); font-weight: 600; }
.faint { color: var(--faint); } .verdict { font-size: 1.1em; } a { color: inherit; }
img { max-width: 100%; border-radius: 6px; background: #fff; }
"""


def sections(comparison: Comparison) -> list[Section]:
    """What differs, then the metrics: a heading and rows of a name and a value for each group."""
    found: list[Section] = []
    for kind in KINDS:
        rows = [[each.name, *each.by_group] for each in comparison.differences if each.kind == kind]
        if rows:
            found.append((kind, rows))
    groups = comparison.groups
    last = [[name, *(_cell(group.summary(name)) for group in groups)] for name in comparison.metrics]
    found.append(("last value", last))
    best = [[name, *(_cell(group.summary(name, best=True)) for group in groups)] for name in comparison.metrics]
    best = [row for row in best if any(cell != ABSENT for cell in row[1:])]
    return [*found, *([("best value on the way", best)] if best else [])]


def leaderboard(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The names of columns, and a row for each group, the best first: what it is worth, then what groups differ in."""
    differing = [index for index, each in enumerate(comparison.differences) if each.between_groups]
    names = [comparison.differences[index].name for index in differing]
    place = {group.label: index for index, group in enumerate(comparison.groups)}
    rows = [
        [
            group.title,
            _cell(group.summary(comparison.verdict.metric)),
            *(comparison.differences[index].by_group[place[group.label]] for index in differing),
        ]
        for group in _ranked(comparison)
    ]
    return ["", comparison.verdict.metric, *names], rows


def equal_in_words(comparison: Comparison) -> str:
    """How much is equal for all, which is not listed."""
    equal, differing = comparison.equal, {each.kind for each in comparison.differences}
    told = ["the data"] if equal["data"] and "data" not in differing else []
    told += ["the code"] if equal["code"] and "code" not in differing else []
    told += [f"{equal['computed with']} facts of how they were computed"] if equal["computed with"] else []
    told += [f"{comparison.equal_metrics} metrics"] if comparison.equal_metrics else []
    return f"{equal['spec']} options are equal" + (f"; so are {', '.join(told)}" if told else "")


def as_dict(comparison: Comparison) -> dict[str, object]:
    """All of it, for JSON."""
    verdict = comparison.verdict
    return {
        "metric": verdict.metric,
        "mode": verdict.mode,
        "verdict": verdict.words,
        "ranked": [group.label for group in verdict.ranked],
        "margin": verdict.margin,
        "beyond_spread": verdict.beyond,
        "notes": list(comparison.notes),
        "groups": [_group_as_dict(group, comparison.metrics) for group in comparison.groups],
        "differences": [
            {
                "kind": each.kind,
                "name": each.name,
                "values": {run.label: value for run, value in zip(comparison.runs, each.by_run, strict=True)},
            }
            for each in comparison.differences
        ],
        "equal": {
            **{str(kind): count for kind, count in comparison.equal.items()},
            "metrics": comparison.equal_metrics,
        },
    }


def column_names(comparison: Comparison) -> list[str]:
    """The columns of `as_rows`."""
    best = [f"best {name}" for name in comparison.metrics if any(name in run.best for run in comparison.runs)]
    differing = [each.name for each in comparison.differences]
    return ["run", "group", "status", "mlflow_run_id", *differing, *comparison.metrics, *best]


def as_rows(comparison: Comparison) -> list[dict[str, object]]:
    """One flat row for each run: its group, what differs, the last and the best of its metrics."""
    group_of = {run.label: group.label for group in comparison.groups for run in group.runs}
    rows, names = [], column_names(comparison)
    for index, run in enumerate(comparison.runs):
        row: dict[str, object] = dict.fromkeys(names)
        row |= {"run": run.label, "group": group_of[run.label], "status": run.status.lower()}
        row["mlflow_run_id"] = run.tracked.mlflow_run_id
        row |= {each.name: each.by_run[index] for each in comparison.differences}
        row |= {name: run.last.get(name) for name in comparison.metrics}
        row |= {f"best {name}": run.best[name] for name in comparison.metrics if name in run.best}
        rows.append(row)
    return rows


def shortened(values: Sequence[str], length: int) -> list[str]:
    """Values cut to a length, at the front where they begin alike: what differs must be seen."""
    if all(len(value) <= length for value in values):
        return list(values)
    common = len(os.path.commonprefix([value for value in values if value != ABSENT]))  # noqa: RUF071 (by characters)
    cut = max(common - length // 2, 0)
    short = [value if value == ABSENT or cut == 0 else f"…{value[cut:]}" for value in values]
    return [value if len(value) <= length else f"{value[: length - 1]}…" for value in short]


def draw_curves(comparison: Comparison, path: Path) -> Path:
    """Draw what the groups are judged by, and their loss, against pictures seen; of seeds, their mean.

    Only here the histories of runs are read. Of more groups than there are colours, the best are drawn.

    Raises:
        UserError: No run has a history of either.
        TrackingError: MLflow did not answer or refused.
    """
    groups = _ranked(comparison)[: len(SERIES)]
    metric = comparison.verdict.metric
    # The test set is read once: the curve that led there is that of the validation set.
    names = dict.fromkeys([f"valid/{metric.partition('/')[2]}" if metric.startswith("test/") else metric, "train/loss"])
    runs = [run for group in groups for run in group.runs]
    by_run = dict(zip((run.label for run in runs), histories(runs, list(names)), strict=True))
    drawn = {group.title: _mean_curve([by_run[run.label] for run in group.runs]) for group in groups}
    there = {name for records in drawn.values() for record in records for name in record}
    panels = {name: _axis(name) for name in names if name in there}
    if not panels:
        raise UserError(f"no run has a history of {' or '.join(names)}.", hint="Name another metric: --metric.")
    title = "Curves" if len(groups) == len(comparison.groups) else f"The best {len(groups)}"
    return overlaid_curves(drawn, panels, path, title=title)


def write_html(comparison: Comparison, file: Path, *, curves: Path | None = None) -> Path:
    """Write a page that needs no other file and no script, and is light or dark as the reader's system is.

    Args:
        comparison: To be told.
        file: HTML to write.
        curves: A PNG to show with it.
    """
    heading = f"{len(comparison.runs)} runs compared"
    parts = [
        f"<h1>{heading}</h1>",
        f"<p class=verdict>{html.escape(comparison.verdict.words)}</p>",
        *(f"<p>⚠ {html.escape(note)}</p>" for note in comparison.notes),
    ]
    best = comparison.verdict.ranked[0]
    if len(comparison.groups) <= MOST_COLUMNS:
        marked = comparison.groups.index(best) + 1
        head = ["", *(group.title for group in comparison.groups)]
        for title, rows in sections(comparison):
            parts += [f"<h2>{title[0].upper()}{title[1:]}</h2>", _table(head, rows, best_column=marked)]
    else:
        parts += ["<h2>The best first</h2>", _table(*leaderboard(comparison), best_row=0)]
    parts.append(f"<p class=faint>{html.escape(equal_in_words(comparison))}</p>")
    if curves is not None:
        data = base64.b64encode(curves.read_bytes()).decode()
        parts.append(f'<h2>On the way</h2><img alt="curves of the runs" src="data:image/png;base64,{data}">')
    parts += ["<h2>Runs</h2>", _runs(comparison)]
    page = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    page += f"<title>{heading}</title><style>{_STYLE}</style>"
    file.write_text(page + "\n".join(parts), encoding="utf-8")
    return file


def _ranked(comparison: Comparison) -> list[Group]:
    ranked = comparison.verdict.ranked
    return [*ranked, *(group for group in comparison.groups if group not in ranked)]


def _cell(summary: Summary | None) -> str:
    return ABSENT if summary is None else str(summary)


def _group_as_dict(group: Group, metrics: Sequence[str]) -> dict[str, object]:
    def told(*, best: bool) -> dict[str, object]:
        found = {name: group.summary(name, best=best) for name in metrics}
        return {name: {"mean": s.mean, "sd": s.sd, "n": s.n} for name, s in found.items() if s is not None}

    runs = [
        {
            "run": run.label,
            "seed": run.seed,
            "status": run.status.lower(),
            "mlflow_run_id": run.tracked.mlflow_run_id,
            "last": {name: run.last[name] for name in metrics if name in run.last},
            "best": run.best,
        }
        for run in group.runs
    ]
    return {
        "label": group.label,
        "seeds": group.seeds,
        "runs": runs,
        "last": told(best=False),
        "best": told(best=True),
    }


def _mean_curve(runs: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """The mean over runs of each metric at each step that all of those that have the metric have measured it at."""
    by_step: dict[int, list[Mapping[str, float]]] = {}
    for records in runs:
        for record in records:
            if "pictures" in record:
                by_step.setdefault(int(record["step"]), []).append(record)
    having = Counter(name for records in runs for name in {name for record in records for name in record})
    merged = []
    for _, records in sorted(by_step.items()):
        values = {name: [record[name] for record in records if name in record] for record in records for name in record}
        merged.append({name: sum(each) / len(each) for name, each in values.items() if len(each) == having[name]})
    return [record for record in merged if "pictures" in record]


def _axis(metric: str) -> str:
    return f"{metric} (%)" if metric.rpartition("/")[2].startswith(("knn", "linear")) else metric


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, best_row: int | None = None, best_column: int | None = None
) -> str:
    def cell(text: str, column: int) -> str:
        marked = " class=best" if column == best_column else ""
        return f"<td{marked}>{html.escape(text)}"

    top = "".join(f"<th>{html.escape(name)}" for name in head)
    body = (
        f"<tr{' class=best' if index == best_row else ''}>{''.join(cell(text, i) for i, text in enumerate(row))}"
        for index, row in enumerate(rows)
    )
    return f"<div class=wide><table><tr>{top}{''.join(body)}</table></div>"


def _runs(comparison: Comparison) -> str:
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            link = html.escape(run.tracked.mlflow_run_id)
            if run.tracked.url.startswith("http"):
                link = f'<a href="{html.escape(run.tracked.url)}">{link}</a>'
            cells = (group.label, run.label, run.seed, run.status.lower())
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in cells) + f"<td>{link}")
    head = "".join(f"<th>{name}" for name in ("group", "run", "seed", "status", "in MLflow"))
    return f"<div class=wide><table><tr>{head}{''.join(rows)}</table></div>"
