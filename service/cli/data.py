"""`reco data`: pictures to shards, and what there is to know about shards."""

from __future__ import annotations

from typing import Annotated

import typer

from service.child import python
from service.cli.child import attached
from service.cli.home import home

app = typer.Typer(no_args_is_help=True, help="Pack pictures into shards; index, verify and describe shards.")

Source = Annotated[
    list[str], typer.Argument(metavar="SOURCE…", help="A folder, prefix, shard or brace pattern; one or several.")
]
IndexPlace = Annotated[
    str | None, typer.Option("--index", metavar="URL", help="Where the index is kept, if not beside the shards.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def pack(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder or S3 prefix of JPEG, PNG and WebP pictures; a .csv or .parquet list of paths or URLs; "
            "existing shards; or the word `digits` for scikit-learn's.",
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="A folder or s3://bucket/prefix.")],
    shard_size: Annotated[float, typer.Option("--shard-size", help="Most megabytes in a shard.")] = 100.0,
    shard_samples: Annotated[int | None, typer.Option("--shard-samples", help="Most pictures in a shard.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME=FRACTION,…", help="Divide into folders, class by class.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the shuffle and the split.")] = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be decoded, and say so.")
    ] = False,
    lossless_optimise: Annotated[
        bool,
        typer.Option("--lossless-optimise", help="Make progressive JPEG baseline: the same pixels, twice as fast."),
    ] = False,
    max_side: Annotated[
        int | None,
        typer.Option("--max-side", metavar="PIXELS", help="Encode larger pictures anew, with this as longer side."),
    ] = None,
    place: IndexPlace = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the shards at the destination.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack pictures into shuffled WebDataset shards with an index, shard by shard.

    Folders directly below SOURCE are taken for classes: their pictures get the folder's number as label, and
    `classes.json` beside the shards names them. A list has a column `path` or `url`, and `label` if there are labels.
    Every picture is decoded once to check it; its bytes are kept as they are, unless an option says otherwise.

    When it is stopped, the same command goes on with the shards that are missing. Until the end nobody can take the
    shards for whole. Local disk holds no more than a few shards at a time.

    Examples:
    - `reco data pack photos/ shards/`

    - `reco data pack photos/ s3://datasets/photos --split train=0.8,valid=0.1,test=0.1 --shard-size 64`

    - `reco data pack pictures.parquet s3://datasets/web --skip-unreadable --max-side 512`

    - `reco data pack s3://datasets/old/train s3://datasets/new/train --seed 1 --lossless-optimise`

    - `reco data pack digits digits-shards --shard-samples 200`
    """
    command = ["pack", source, destination, "--shard-size", str(shard_size), "--seed", str(seed)]
    command += [*_option("--shard-samples", shard_samples), *_option("--split", split)]
    command += [*_option("--max-side", max_side), *_option("--index", place)]
    _run(
        command,
        lossless_optimise=lossless_optimise,
        skip_unreadable=skip_unreadable,
        overwrite=overwrite,
        json=as_json,
        debug=_debug(ctx),
    )


@app.command()
def index(
    ctx: typer.Context,
    source: Source,
    place: IndexPlace = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build it even where there is one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the index of shards against the shards that are there, or build it where there is none.

    Training does the same on first use; run this where the machine that trains may not write beside the shards.
    Samples that cannot be used (no picture, no bytes, no readable header) are left out and named. When it is stopped,
    the same command goes on where it was.

    Examples:
    - `reco data index s3://datasets/photos/train`

    - `reco data index 'shards/photos-{000000..000017}.tar' --index s3://mine/index --rebuild`
    """
    _run(["index", *source, *_option("--index", place)], rebuild=rebuild, json=as_json, debug=_debug(ctx))


@app.command("verify")
def verify_(
    ctx: typer.Context,
    source: Source,
    place: IndexPlace = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read everything, also what was read before it was stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte of shards, decode every picture, and name each sample that is not what the index promises.

    Also named: samples that the index leaves out, and shards that are cut, replaced, gone or not indexed. Whatever is
    wrong with one shard, the others are still checked. The exit code is 0 where everything is as indexed, 1 where
    something is not. When it is stopped, the same command goes on where it was; what is done is noted in `RECO_HOME`
    until the end.

    Examples:
    - `reco data verify s3://datasets/photos/train`

    - `reco data verify shards/train shards/valid --json > faults.json`
    """
    command = ["verify", *source, *_option("--index", place), "--record", str(home() / "verify")]
    _run(command, fresh=fresh, json=as_json, debug=_debug(ctx))


@app.command()
def stats(
    ctx: typer.Context,
    source: Source,
    place: IndexPlace = None,
    sheet: Annotated[
        str | None, typer.Option("--sheet", metavar="FILE.png", help="Draw samples, chosen at random, in this picture.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=1000, help="How many to draw.")] = 48,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of samples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what shards hold: counts, bytes, sizes of pictures, formats and labels, and what was left out.

    All of it comes from the index, which is built first where there is none.

    Examples:
    - `reco data stats s3://datasets/photos/train`

    - `reco data stats shards/train --sheet samples.png --seed 1`
    """
    command = ["stats", *source, *_option("--index", place), *_option("--sheet", sheet)]
    _run([*command, "--samples", str(samples), "--seed", str(seed)], json=as_json, debug=_debug(ctx))


@app.command()
def bench(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, prefix, shard or brace pattern.")],
    place: IndexPlace = None,
    image_size: Annotated[int, typer.Option("--image-size", min=8, help="Side of the views in pixels.")] = 224,
    pictures: Annotated[int, typer.Option("--pictures", min=64, help="Pictures per stage.")] = 1000,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Decoding threads of the loader; all cores but one if unset.")
    ] = None,
    appetite: Annotated[
        float, typer.Option("--appetite", min=1, help="Pictures per second that one accelerator takes.")
    ] = 2500.0,
    as_json: AsJson = False,
) -> None:
    """Measure how many pictures a second this machine can feed, stage by stage: read, decode, hand over, views.

    Examples:
    - `reco data bench s3://datasets/photos/train`

    - `reco data bench shards/train --image-size 96 --appetite 4000`
    """
    command = [source, *_option("--index", place), "--image-size", str(image_size), "--pictures", str(pictures)]
    command += [*_option("--threads", threads), "--appetite", str(appetite)]
    _run(command, module="jobs.data_bench", json=as_json)


def _debug(ctx: typer.Context) -> bool:
    """Whether `reco --debug` was given."""
    return bool(ctx.find_root().params.get("debug"))


def _option(name: str, value: object) -> list[str]:
    """An option for `_run`; nothing where it was not given."""
    return [] if value is None else [name, str(value)]


def _run(command: list[str], *, module: str = "jobs.data", **flags: bool) -> None:
    """Run the work in a process of its own, since decoding is no business of this one, and end with its exit code."""
    command += [f"--{name.replace('_', '-')}" for name, given in flags.items() if given]
    raise typer.Exit(attached(python(module, *command)))
