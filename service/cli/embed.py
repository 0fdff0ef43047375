"""`reco embed`: embeddings of pictures by a registered encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.child import python
from service.cli.child import attached
from service.cli.home import home

Model = Annotated[
    str,
    typer.Argument(help="`name`, `name@alias`, `name/3`, or an encoder's folder.", metavar="MODEL", show_default=False),
]


def embed(
    model: Model,
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="A folder or S3 prefix of pictures, or shards: a folder, a prefix, a brace pattern, or several.",
            metavar="PICTURES…",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The .parquet or .npy file to write, on disk or in S3.")],
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="How many; on the cluster at `RAY_ADDRESS`, or on this machine.", min=1),
    ] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", help="Cores of each worker; all by default.", min=1)] = None,
    parts: Annotated[
        str | None, typer.Option("--parts", help="Where finished parts are kept; `OUT.parts` by default.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away finished parts and begin anew.")] = False,
    max_bad: Annotated[
        float,
        typer.Option("--max-bad", help="Largest share of the pictures that may be unreadable, 0 to 1.", min=0, max=1),
    ] = 0.001,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw nearest neighbours into this PNG.")] = None,
    map_: Annotated[Path | None, typer.Option("--map", help="Draw a map of the embeddings into this PNG.")] = None,
) -> None:
    """Embed pictures; parquet gets the columns key, label (where known) and embedding, in stable order.

    The file is the same for any number of workers. Whatever interrupts the command, the same command goes on.

    Examples:
    - `reco embed cifar10-encoder@candidate photos/ -o embeddings.parquet`

    - `reco embed cifar10-encoder s3://datasets/cifar10/test -o test.npy --sheet neighbours.png --map map.png`

    - `RAY_ADDRESS=head:6379 reco embed photos-encoder s3://datasets/photos -o photos.parquet --workers 8`
    """
    # Decoding and the encoder need torch, which this process stays free of.
    command = python("jobs.embed", model, *pictures, "--out", out, "--home", str(home()), "--max-bad", str(max_bad))
    for option, given in (
        ("--workers", workers),
        ("--cpus", cpus),
        ("--parts", parts),
        ("--sheet", sheet),
        ("--map", map_),
    ):
        command += [option, str(given)] if given is not None else []
    command += ["--restart"] if restart else []
    raise typer.Exit(attached(command))
