"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.home import home

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
MaybeRun = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="The run's id; the newest run if not given.", show_default=False)
]
SweepFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The sweep's spec, a YAML file.", show_default=False)]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="RECO_STORAGE",
        help="Folder or S3 prefix that holds runs and sweeps; `RECO_HOME/runs` if unset.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change an option, the value in YAML; may be repeated."),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", "-d", help="Do not follow it; print its id. `reco runs logs ID -f` follows it later."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ProjectOption = Annotated[str, typer.Option("--project", help="The project that the run is of.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def storage_of(given: str | None) -> str:
    """Where runs and sweeps are, with the default resolved."""
    return given or str(home() / "runs")


def set_flags(overrides: list[str] | None) -> list[str]:
    """Overrides as arguments of a job."""
    return [flag for change in overrides or [] for flag in ("--set", change)]
