"""`reco models export`: a registered encoder as a file that other programs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.exporting.formats import CHOICES, parse_format
from service.child import python
from service.cli.child import attached
from service.cli.home import home
from service.cli.options import AsJson


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="`name`, `name@alias`, `name/3`, or an encoder's folder.", metavar="MODEL", show_default=False
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar=CHOICES,
            help="What to write; see above.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export an encoder, checked, with FILE.json beside it: what it is and how pictures are prepared.

    - `safetensors` (.safetensors): the weights by torchvision's names, which timm's ResNets share; only `fc` is missing

    - `pt2` (.pt2): a program of torch.export for batches of any size; needs torch alone

    - `onnx` (.onnx): a graph for batches of any size, for ONNX Runtime and what else reads ONNX

    - `detectron2` (.pkl): a backbone for detection, as MoCo's authors hand over theirs

    Where the encoder differs from the network that goes by its name elsewhere, the output says so.

    Examples:
    - `reco models export photos-encoder --format safetensors -o photos.safetensors`

    - `reco models export photos-encoder@champion --format onnx -o photos.onnx --force`
    """
    kind = parse_format(kind)
    command = python("jobs.export", model, "--format", kind, "--out", str(out), "--home", str(home()))
    command += [flag for flag, given in (("--force", force), ("--json", as_json)) if given]
    # Rebuilding the encoder needs torch, which this process stays free of.
    raise typer.Exit(attached(command))
