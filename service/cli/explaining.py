"""The options of a model in a table: what each is for, what it may be, what it is by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.errors import UserError
from service.cli import output

if TYPE_CHECKING:
    from pydantic import BaseModel


def explain_options(model: type[BaseModel], path: str | None, *, command: str, as_json: bool) -> None:
    """Print every option of a model, or those below a path.

    Args:
        model: A spec.
        path: A section or an option; None for all.
        command: What lists them all.
        as_json: Whether to print JSON.

    Raises:
        UserError: There is no such path.
    """
    from jobs.spec import closest, options

    chosen = [each for each in options(model) if path is None or each.path == path or each.path.startswith(f"{path}.")]
    if not chosen:
        near = closest(path or "", [each.path for each in options(model)])
        hint = f"Did you mean `{near}`?" if near else f"`{command}` lists them all."
        raise UserError(f"there is no option `{path}`.", hint=hint)
    if as_json:
        output.emit([each.as_dict() for each in chosen])
        return
    from rich.text import Text

    table = output.table("Option", "Default", "Allowed", "What it is for")
    table.columns[0].no_wrap = True
    top = chosen[0].path.count(".")
    for each in chosen:
        # Below its section an option needs its last name only, which leaves room for what it is for.
        depth = each.path.count(".") - top
        name = "  " * depth + (each.path.rpartition(".")[2] if depth else each.path)
        if each.section:
            allowed = "" if each.required else "a section, may be left out"
            table.add_row(Text(name, "bold cyan"), each.default_text, allowed, Text(each.description, "bold"))
        else:
            table.add_row(*map(Text, (name, each.default_text, each.allowed, each.description)))
    output.show(table)
