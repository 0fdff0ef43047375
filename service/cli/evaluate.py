"""`reco eval`: what a registered encoder is worth on labelled pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.errors import RecoError
from service.child import python
from service.cli import output
from service.cli.child import answered
from service.cli.home import home
from service.cli.options import AsJson, Overrides, set_flags

INTERRUPTED = 130
MEANINGS = {
    "knn": "k-NN, k = {}",
    "linear": "linear probe, the best of a grid of learning rates and weight decays",
    "linear_lbfgs": "linear probe, by L-BFGS",
    "linear_sgd": "linear probe, by the authors' SGD protocol",
    "few_shot": "linear, with {:.0%} of the labels (mean of 3 draws)",
    "rank_me": "RankMe, directions that the features use",
}


def evaluate(
    model: Annotated[
        str, typer.Argument(help="`name`, `name@alias`, `name/3`, or an encoder's folder.", metavar="MODEL")
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="Labelled shards to judge on; by default the test set of its spec.", metavar="DATA"),
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", help="Labelled shards to fit to; by default those of its spec's probe.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Neighbours that vote; may be repeated.")] = None,
    few_shot: Annotated[
        list[float] | None, typer.Option("--few-shot", help="Part of the labels to fit to; may be repeated.")
    ] = None,
    sgd: Annotated[bool, typer.Option("--sgd", help="The authors' SGD protocol for the linear probe as well.")] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="How many share the work, on the cluster at RAY_ADDRESS.")
    ] = 1,
    overrides: Overrides = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Folder or S3 prefix that all workers reach; needed on several hosts."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge an encoder by k-NN, linear probes and few labels; the figures are kept with the encoder.

    The features are computed once. It runs in one process here, or on several workers of the cluster at RAY_ADDRESS.

    Examples:
    - `reco eval cifar10-encoder@candidate`

    - `reco eval cifar10-encoder/3 s3://datasets/other/test --train s3://datasets/other/train --k 20 --k 200`
    """
    out = out or Path(f"eval-{model.replace('/', '-').replace('@', '-').strip('.-')}")
    command = python("jobs.evaluate", model, *([data] if data else []), "--out", str(out), "--home", str(home()))
    command += ["--train", train] if train else []
    command += ["--storage", storage] if storage else []
    command += ["--k", *map(str, k)] if k else []
    command += ["--few-shot", *map(str, few_shot)] if few_shot else []
    command += ["--workers", str(workers)]
    command += [*(["--sgd"] if sgd else []), *set_flags(overrides)]
    told = _told(*answered(command))
    if as_json:
        output.emit(told)
        return
    _show(told)


def _told(code: int, printed: str) -> dict[str, Any]:
    """What the job printed last.

    Raises:
        RecoError: It failed, and says why, or ended without a word.
    """
    from jobs.job_folder import error_of

    lines = printed.splitlines()
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if not lines:
        raise RecoError(f"the evaluation ended without a result (exit code {code}); see above.")
    told: dict[str, Any] = json.loads(lines[-1])
    if "error" in told:
        raise error_of(told)  # type: ignore[arg-type]
    return told


def _show(told: dict[str, Any]) -> None:
    judgement, made = told["judgement"], told["evaluation"]
    output.say(f"{told['model']} on {made['data']}", style="bold")
    output.say(f"{judgement['judged']:,} pictures; classifiers were fitted to {judgement['fitted']:,} others")
    table = output.table("", "", "What it is")
    for name, value in judgement["metrics"].items():
        kind, _, parameter = name.partition("@")
        unit = "" if kind == "rank_me" else " %"
        meaning = MEANINGS[kind].format(float(parameter) if kind == "few_shot" else parameter)
        table.add_row(name, f"{value:.2f}{unit}", meaning)
    output.show(table)
    if judgement["unusable"]:
        output.say(f"! {judgement['unusable']} pictures could not be used; others stood in for them")
    for path in told["figures"]:
        output.say(f"✓ {path}")
    if told["kept"]:
        output.say(f"✓ kept with {told['model']} as probe {made['probe']}")
