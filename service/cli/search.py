"""`reco search`: the pictures of a file of embeddings that are most like one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from service.child import python
from service.cli import output
from service.cli.home import home
from service.cli.options import AsJson


def search(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `reco embed` has written.", show_default=False)],
    picture: Annotated[
        str | None, typer.Argument(metavar="[PICTURE]", help="A JPEG, PNG or WebP file.", show_default=False)
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Instead of a picture, one of the file itself.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The encoder; by default the one the file was made with.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many to find.", min=1)] = 8,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw what was found into this PNG.")] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option("--pictures", help="Where the pictures are, if not where they were embedded from; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the nearest neighbours of a picture by cosine similarity, exactly.

    Examples:
    - `reco search embeddings.parquet photo.jpg`

    - `reco search embeddings.parquet --key part-000001.tar/000213 -k 20 --sheet neighbours.png`
    """
    command = python("jobs.search", file, "-k", str(k), "--home", str(home()))
    for option, given in (("--picture", picture), ("--key", key), ("--model", model), ("--sheet", sheet)):
        command += [f"{option}={given}"] if given is not None else []
    command += [f"--pictures={each}" for each in pictures or []]
    # The encoder needs torch, which this process stays free of. Errors go to stderr as they come.
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise typer.Exit(ran.returncode)
    found = json.loads(ran.stdout)
    if as_json:
        output.emit(found)
        return
    labelled = any(each["label"] is not None for each in found["neighbours"])
    table = output.table("Rank", "Similarity", "Picture", *(["Label"] if labelled else []))
    for each in found["neighbours"]:
        label = [each["label"] or ""] if labelled else []
        table.add_row(*map(_plain, [str(each["rank"]), f"{each['similarity']:.4f}", each["key"], *label]))
    output.show(table)
    if sheet is not None:
        output.say(f"✓ pictures in {sheet}")


def _plain(text: str) -> str:
    """A cell whose brackets are not read as markup."""
    from rich.markup import escape

    return escape(text)
