"""`reco embed`: embeddings of pictures by a registered encoder."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from service.cli.child import python
from service.cli.home import home


def embed(
    model: Annotated[
        str, typer.Argument(help="`name`, `name@alias`, `name/3`, or an encoder's folder.", metavar="MODEL")
    ],
    pictures: Annotated[str, typer.Argument(help="A folder or S3 prefix of pictures, or shards.", metavar="PICTURES")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .parquet or .npy file to write.")],
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw nearest neighbours into this PNG.")] = None,
    map_: Annotated[Path | None, typer.Option("--map", help="Draw a map of the embeddings into this PNG.")] = None,
) -> None:
    """Embed pictures; parquet gets the columns key, label (where known) and embedding, in stable order.

    Examples:
    - `reco embed cifar10-encoder@candidate photos/ -o embeddings.parquet`

    - `reco embed cifar10-encoder s3://datasets/cifar10/test -o test.npy --sheet neighbours.png --map map.png`
    """
    command = python("jobs.embed", model, pictures, "--out", str(out), "--home", str(home()))
    for option, path in (("--sheet", sheet), ("--map", map_)):
        if path is not None:
            command += [option, str(path)]
    # Decoding and the encoder need torch, which this process stays free of.
    raise typer.Exit(subprocess.run(command, check=False).returncode)
