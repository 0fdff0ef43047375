"""`reco tokens`: who may use the API of this service, with which role, and until when."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import output
from service.cli.connect import service
from service.cli.options import AsJson
from service.cli.promotion import message

if TYPE_CHECKING:
    from datetime import datetime

    from service.contract.messages import TokenView

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke tokens of the HTTP API.")


class Role(StrEnum):
    """What the holder of a token may do; each may do what those before it may."""

    VIEWER = "viewer"
    RUNNER = "runner"
    PROMOTER = "promoter"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for, such as `ci`.", show_default=False)],
    role: Annotated[Role, typer.Option("--role", help="What its holder may do.")] = Role.VIEWER,
    project: Annotated[
        str | None, typer.Option("--project", help="The only one that its holder may see; all if left out.")
    ] = None,
    days: Annotated[int, typer.Option("--days", help="Until it expires; 0 for never.", min=0, max=3650)] = 90,
    owner: Annotated[
        str | None, typer.Option("--owner", help="In whose name its holder acts; yours if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is printed now and never again: only its hash is kept.

    A viewer sees everything of the project, a runner also submits, stops, resumes, forks and deletes runs, a promoter
    also changes champions, an admin also makes tokens and reads the audit.

    Examples:
    - `reco tokens create ci --role runner --project photos --days 30`

    - `RECO_TOKEN=$(reco tokens create laptop --role promoter)`
    """
    from service.contract.messages import NewToken

    with service() as reco:
        asked = message(
            NewToken,
            name=name,
            owner=owner or reco.caller.owner,
            role=role.value,
            project=project,
            days=days or None,
        )
        token = reco.tokens.issue(asked)
    if as_json:
        output.emit(token.model_dump(mode="json"))
        return
    until = f"until {_local(token.expires)}" if token.expires else "for ever, or until it is revoked"
    seen = f"project {token.project}" if token.project else "all projects"
    output.note(f"{token.role} of {seen}, as {token.owner}, {until}; its id is {token.id}. It is shown this once:")
    output.say(token.secret)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tokens that are good, the oldest first; nobody can see their secrets again.

    Examples:
    - `reco tokens list`

    - `reco tokens list --all --json`
    """
    with service() as reco:
        found = [each for each in reco.tokens.issued() if everything or not _ended(each)]
    if as_json:
        output.emit([each.model_dump(mode="json") for each in found])
        return
    if not found:
        output.say("There is no token: `reco tokens create NAME` makes one.")
        return
    from rich.text import Text

    table = output.table("Id", "Begins with", "Name", "Owner", "Role", "Project", "Created", "Last used", "Ends")
    for each in found:
        cells = (each.id, each.prefix, each.name, each.owner, each.role, each.project or "all")
        table.add_row(*map(Text, (*cells, _local(each.created), _local(each.last_used), _end(each))))
    output.show(table)


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `reco tokens list` shows it.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """End a token for good. The API may go on taking it for a few seconds.

    Examples:
    - `reco tokens revoke 3f9c0a1b2c3d4e5f`
    """
    with service() as reco:
        revoked = reco.tokens.revoke(token_id)
    if not revoked:
        from jobs.errors import UserError

        raise UserError(
            f"there is no token {token_id} that could be revoked.",
            hint="`reco tokens list --all` shows all there were.",
        )
    if as_json:
        output.emit({"id": token_id, "revoked": True})
    else:
        output.say(f"✓ {token_id} is revoked")


def _ended(token: TokenView) -> bool:
    from datetime import UTC, datetime

    return token.revoked is not None or (token.expires is not None and token.expires <= datetime.now(UTC))


def _end(token: TokenView) -> str:
    if token.revoked is not None:
        return f"revoked {_local(token.revoked)}"
    return _local(token.expires) if token.expires else "never"


def _local(moment: datetime | None) -> str:
    return "–" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")
