"""`reco models promote|rollback|history`: which encoder is the champion, and how it came to be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from service.cli import output
from service.cli.connect import service
from service.cli.options import AsJson
from service.models.registry import MARGIN

if TYPE_CHECKING:
    from service.contract.messages import Asked, ChampionChange

    Message = TypeVar("Message", bound=Asked)

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
    from service.contract.messages import Promotion

    with service() as reco:
        output.note("asking the gates")
        changed = reco.models.promote(message(Promotion, reference=model, reason=reason, margin=margin))
    _tell(model, changed, as_json)


def rollback(model: Name, reason: Reason = "rolled back", as_json: AsJson = False) -> None:
    """Bring back the champion before the last change, after seeing that it is still whole.

    Examples:
    - `reco models rollback cifar10-encoder --reason "search got worse"`
    """
    from service.contract.messages import Rollback

    with service() as reco:
        output.note("asking the gates")
        changed = reco.models.rollback(model, message(Rollback, reason=reason))
    _tell(model, changed, as_json)


def history(model: Name, as_json: AsJson = False) -> None:
    """Show every change of a model's champion: when, by whom, why, and what the gates said.

    Examples:
    - `reco models history cifar10-encoder`
    """
    with service() as reco:
        found = reco.models.history(model)
    entries = found.changes
    if found.champion != (entries[-1].version if entries else 0):
        output.note(
            f"the alias points to {found.champion or 'none'}, which is not what `reco` did last", style="yellow"
        )
    if as_json:
        output.emit([each.model_dump() for each in entries])
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


def message(kind: type[Message], /, **values: object) -> Message:
    """A message of the contract, made of what was typed.

    Raises:
        UserError: A value is none that it takes.
    """
    from pydantic import ValidationError

    from jobs.errors import UserError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{name} cannot be {wrong['input']!r}: {wrong['msg'].lower()}.") from error


def _tell(reference: str, changed: ChampionChange, as_json: bool) -> None:
    name = re.split("[@/]", reference.strip().removeprefix("models:/"))[0]
    if as_json:
        output.emit({"model": name, **changed.model_dump()})
        return
    for check in changed.checks:
        output.say(f"✓ {check}")
    before = f", before it was version {changed.previous}" if changed.previous else ""
    output.say(f"✓ version {changed.version} is the champion of {name}{before}", style="green")
