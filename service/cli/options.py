"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.home import home

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
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def storage_of(given: str | None) -> str:
    """Where runs and sweeps are, with the default resolved."""
    return given or str(home() / "runs")


def set_flags(overrides: list[str] | None) -> list[str]:
    """Overrides as arguments of a job."""
    return [flag for change in overrides or [] for flag in ("--set", change)]
