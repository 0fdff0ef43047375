"""The one place that prints: results on stdout, for people or as JSON; errors, notes and progress on stderr.

Colours and live displays are Rich's, which leaves them out where the stream is no terminal or `NO_COLOR` is set.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH_WITHOUT_A_TERMINAL = 160
"""Columns where output goes to a file or a pipe: Rich's 80 would fold tables that nobody's window folds."""

STYLES = {"✓": "green", "!": "yellow", "✗": "red"}
"""Colour of a line that begins with one of these marks."""


def results() -> Console:
    """Return a console on stdout, for what the command was asked for."""
    return _console(stderr=False)


def progress() -> Console:
    """Return a console on stderr, for live displays, notes and errors."""
    return _console(stderr=True)


def say(text: str, *, style: str | None = None) -> None:
    """Print a line of results as it is: no markup is read from it, and nothing is folded."""
    _line(results(), text, style)


def note(text: str, *, style: str | None = "dim") -> None:
    """Print a line about what is going on, on stderr."""
    _line(progress(), text, style)


def show(renderable: RenderableType) -> None:
    """Print a table or another of Rich's shapes as results."""
    results().print(renderable)


def emit(data: object) -> None:
    """Print results as JSON."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def emit_csv(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> None:
    """Print results as CSV, with the names of the columns on top."""
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)


def fail(message: str, *, hint: str | None = None) -> None:
    """Print an error, and what to do about it on the next line, on stderr."""
    console = progress()
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True, highlight=False)
    if hint:
        _line(console, f"  → {hint}", None)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in this project's look; its cells are texts or Rich's shapes, markup is read from them."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _line(console: Console, text: str, style: str | None) -> None:
    style = style or STYLES.get(text.strip()[:1])
    console.print(Text(text, style=style or ""), soft_wrap=True, highlight=False)


def _console(*, stderr: bool) -> Console:
    # Made anew for each use, which costs microseconds: the streams and the environment are those of now.
    stream = sys.stderr if stderr else sys.stdout
    folded = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if folded else WIDTH_WITHOUT_A_TERMINAL)
