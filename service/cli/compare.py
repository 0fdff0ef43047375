"""`reco runs compare` and `reco models compare`: what differs, and which is better."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.errors import UserError
from service.cli import output
from service.cli.home import tracking
from service.cli.options import AsJson

if TYPE_CHECKING:
    from jobs.tracking.compared_runs import Found
    from jobs.tracking.comparison import Comparison

CELL = 44
"""Most characters of a value in a terminal; JSON, CSV and HTML have it whole."""
MOST_OPTIONS = 6
"""Most columns of options in a terminal's table with a row for each group."""

Runs = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Ids of runs.", show_default=False)]
Models = Annotated[
    list[str], typer.Argument(metavar="MODEL", help="`name`, `name@alias` or `name/version`.", show_default=False)
]
Pattern = Annotated[
    str | None, typer.Option("--name", metavar="PATTERN", help="Runs whose ids fit, with * and ?, such as `photos-*`.")
]
SweepId = Annotated[str | None, typer.Option("--sweep", metavar="SWEEP", help="The runs of a sweep.")]
Metric = Annotated[
    str | None, typer.Option("--metric", help="What they are judged by; k-NN on test, else on valid, if not given.")
]
ModeOption = Annotated[
    Literal["max", "min"] | None, typer.Option("--mode", help="Whether more of the metric is better; mostly known.")
]
Apart = Annotated[
    list[str] | None,
    typer.Option("--apart", metavar="FACT", help="Take runs that differ in it for two groups: `code`, `device`, …"),
]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page with curves to this file.")]
Curves = Annotated[Path | None, typer.Option("--curves", help="Draw the curves into this PNG.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print a line for each run, separated by commas.")]


def compare_runs(
    runs: Runs = None,
    pattern: Pattern = None,
    sweep: SweepId = None,
    metric: Metric = None,
    mode: ModeOption = None,
    apart: Apart = None,
    html: Html = None,
    curves: Curves = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show in what runs differ, and which is better.

    Runs that differ in their seed only are one group, shown as mean ± standard deviation over its seeds.

    Examples:
    - `reco runs compare photos-20261123-2210 photos-20261124-0900`

    - `reco runs compare --name 'photos-lr*' --metric valid/knn --html report.html`

    - `reco runs compare --sweep photos-sweep-20261125-0900 --csv`
    """
    from jobs.tracking.compared_runs import find_runs

    if not runs and pattern is None and sweep is None:
        raise UserError("no run is named.", hint="Name at least two, or select some by --name or --sweep.")
    uri = tracking()
    _tell(
        find_runs(uri, runs or [], pattern=pattern, sweep=sweep),
        uri,
        metric,
        mode,
        apart,
        html,
        curves,
        as_json,
        as_csv,
    )


def compare_models(
    models: Models,
    metric: Metric = None,
    mode: ModeOption = None,
    apart: Apart = None,
    html: Html = None,
    curves: Curves = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show in what registered encoders differ, by the runs that trained them, and which is better.

    Examples:
    - `reco models compare photos-encoder@champion photos-encoder@candidate`

    - `reco models compare photos-encoder/1 photos-encoder/2 --html report.html`
    """
    from jobs.tracking.compared_runs import find_models

    uri = tracking()
    _tell(find_models(uri, models), uri, metric, mode, apart, html, curves, as_json, as_csv)


def _tell(
    found: Found,
    uri: str,
    metric: str | None,
    mode: Literal["max", "min"] | None,
    apart: list[str] | None,
    html: Path | None,
    curves: Path | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    from jobs.tracking.compared_runs import with_best
    from jobs.tracking.comparison import compare
    from jobs.tracking.comparison_report import as_dict, as_rows, column_names

    runs = with_best(uri, found.runs)
    comparison = compare(runs, metric=metric, mode=mode, apart=apart or [], notes=found.notes)
    _write_files(comparison, html, curves)
    if as_json:
        output.emit(as_dict(comparison))
    elif as_csv:
        for note in comparison.notes:
            output.note(f"! {note}", style=None)
        output.emit_csv(as_rows(comparison), column_names(comparison))
    elif html is None and curves is None:
        _show(comparison)


def _write_files(comparison: Comparison, html: Path | None, curves: Path | None) -> None:
    from jobs.tracking.comparison_report import draw_curves, write_html

    if html is None and curves is None:
        return
    for file in (html, curves):
        if file is not None and not file.parent.is_dir():
            raise UserError(f"there is no folder {file.parent}.", hint="Make it, or name another file.")
    with tempfile.TemporaryDirectory() as temporary:
        drawn: Path | None = None
        try:
            drawn = draw_curves(comparison, curves or Path(temporary) / "curves.png")
        except UserError as error:
            if curves is not None:
                raise
            output.note(f"! the page has no curves: {error.message}", style=None)
        if html is not None:
            write_html(comparison, html, curves=drawn)
    for file in (html, curves):
        if file is not None:
            output.note(f"✓ {file}", style=None)


def _show(comparison: Comparison) -> None:
    from jobs.tracking.comparison_report import MOST_COLUMNS, equal_in_words

    if len(comparison.groups) <= MOST_COLUMNS:
        _show_columns(comparison)
    else:
        _show_rows(comparison)
    output.say(equal_in_words(comparison), style="dim")
    for note in comparison.notes:
        output.say(f"! {note}")
    output.say(comparison.verdict.words, style="bold")


def _show_columns(comparison: Comparison) -> None:
    from rich.text import Text

    from jobs.tracking.comparison_report import sections, shortened

    table = output.table("", *(group.title for group in comparison.groups))
    best = comparison.groups.index(comparison.verdict.ranked[0])
    for title, rows in sections(comparison):
        table.add_row(Text(title, style="bold"))
        for name, *values in rows:
            cells = [Text(value) for value in shortened(values, CELL)]
            if name == comparison.verdict.metric:
                cells[best].stylize("green")
            table.add_row(Text(f"  {name}"), *cells)
    output.show(table)


def _show_rows(comparison: Comparison) -> None:
    from rich.text import Text

    from jobs.tracking.comparison_report import leaderboard, shortened

    names, rows = leaderboard(comparison)
    shown = names[: 2 + MOST_OPTIONS]
    table = output.table(*shown)
    columns = [shortened(column, CELL // 2) for column in list(zip(*rows, strict=True))[2 : len(shown)]]
    for index, row in enumerate(rows):
        cells = (*row[:2], *(column[index] for column in columns))
        table.add_row(*map(Text, cells), style="green" if index == 0 else None)
    output.show(table)
    if len(names) > len(shown):
        output.say(f"{len(names) - len(shown)} more differ: --html, --csv and --json have them all", style="dim")
