"""`reco models promote|rollback|history`: which encoder is the champion, and how it came to be."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import output
from service.cli.home import tracking
from service.cli.options import AsJson
from service.models.registry import MARGIN

if TYPE_CHECKING:
    from service.models.registry import Changed

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; the history keeps it.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="The registered model.", show_default=False)]


def promote(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="`name/version` or `name@alias`; a name means its candidate.", show_default=False
        ),
    ],
    reason: Reason,
    margin: Annotated[
        float, typer.Option("--margin", help="How many points worse than the champion it may be.", min=0)
    ] = MARGIN,
    as_json: AsJson = False,
) -> None:
    """Make an encoder the champion of its model, if the gates let it pass.

    The gates: its files are whole; the exported graph takes the pictures that its preprocessing makes; weights and
    graph can be loaded in a fresh process, without pickle, and compute what they did at registration; on the same
    pictures it is no worse than the champion by more than the margin.

    Examples:
    - `reco models promote cifar10-encoder --reason "200 epochs instead of 100"`

    - `reco models promote cifar10-encoder/7 --reason "smaller, as good" --margin 1`
    """
    from service.models.registry import promote as move

    uri = tracking()
    output.note("asking the gates")
    _tell(move(model, reason=reason, who=who(), uri=uri, margin=margin, say=output.note), as_json)


def rollback(model: Name, reason: Reason = "rolled back", as_json: AsJson = False) -> None:
    """Bring back the champion before the last change, after seeing that it is still whole.

    Examples:
    - `reco models rollback cifar10-encoder --reason "search got worse"`
    """
    from service.models.registry import rollback as move

    uri = tracking()
    output.note("asking the gates")
    _tell(move(model, reason=reason, who=who(), uri=uri, say=output.note), as_json)


def history(model: Name, as_json: AsJson = False) -> None:
    """Show every change of a model's champion: when, by whom, why, and what the gates said.

    Examples:
    - `reco models history cifar10-encoder`
    """
    from jobs.tracking.history import History
    from jobs.tracking.models import find_model
    from service.models.registry import champion_of

    uri = tracking()
    find_model(model, uri)
    entries = History(model, uri).entries()
    pointed = champion_of(model, uri)
    if pointed != (entries[-1].version if entries else 0):
        output.note(f"the alias points to {pointed or 'none'}, which is not what `reco` did last", style="yellow")
    if as_json:
        output.emit([asdict(each) for each in entries])
        return
    if not entries:
        output.say(f"{model} has had no champion yet: `reco models promote {model} --reason …` makes one.")
        return
    from rich.text import Text

    table = output.table("When", "What", "Champion", "Before", "Who", "Reason and gates")
    for each in reversed(entries):
        why = Text(each.reason)
        for check in each.checks:
            why.append(f"\n{check}", style="dim")
        champion, before = (str(number) if number else "–" for number in (each.version, each.previous))
        table.add_row(Text(each.when), each.act, champion, before, Text(each.who), why)
    output.show(table)


def who() -> str:
    """Who acts, for the history: RECO_USER where it is set, else the user of this machine."""
    return os.environ.get("RECO_USER") or f"{getpass.getuser()}@{socket.gethostname()}"


def _tell(changed: Changed, as_json: bool) -> None:
    if as_json:
        output.emit({"model": changed.model, **asdict(changed.entry)})
        return
    for check in changed.checks:
        output.say(f"✓ {check}")
    before = f", before it was version {changed.entry.previous}" if changed.entry.previous else ""
    output.say(f"✓ version {changed.entry.version} is the champion of {changed.model}{before}", style="green")
