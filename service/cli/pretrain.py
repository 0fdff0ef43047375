"""`reco pretrain`: start a run in the foreground, show how it goes, and say what it gave."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import foreground, output
from service.cli.child import python
from service.cli.home import home
from service.cli.options import Overrides, StorageOption, set_flags, storage_of


def pretrain(
    spec: Annotated[Path, typer.Argument(help="The run's spec, a YAML file.", metavar="SPEC")],
    overrides: Overrides = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="Name a new run, or continue the one of that id.")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Pretrain an encoder, in the foreground, on this machine or on the cluster at `RAY_ADDRESS`.

    Ctrl-C saves a checkpoint and stops; the same `--run-id` continues from there, as it does after any failure.

    Examples:
    - `reco pretrain examples/cifar10-cpu.yaml`

    - `reco pretrain run.yaml --set optimizer.lr=0.03 --set scale.workers=4`

    - `reco pretrain run.yaml --run-id cifar10-20261123-2210`
    """
    from jobs.run_folder import RunFolder
    from jobs.spec import load_spec
    from service.cli.live import LiveRun

    loaded = load_spec(spec, overrides or [])  # mistakes are told at once, before anything is started
    if run_id is None:
        run_id = f"{loaded.name}-{datetime.now():%Y%m%d-%H%M%S}"
    where = storage_of(storage)
    folder = RunFolder(where, run_id)
    folder.claim(loaded)  # here too: the outcome of another experiment of that id must not be told as this one's
    output.note(f"run {run_id}   folder {folder.url}   log {foreground.log_of(folder)}")
    command = python("jobs.pretrain", str(spec), "--run-id", run_id, "--storage", where, "--home", str(home()))
    command += set_flags(overrides)
    goes_on = f"`--run-id {run_id}` continues from the last checkpoint"
    with LiveRun(folder, since=time.time()) as live:
        outcome = foreground.carry_out(command, folder, watch=live.refresh, say=live.say, goes_on=goes_on)
    if outcome["status"] == "stopped":
        output.note(f"stopped and saved; continue with: reco pretrain {spec} --run-id {run_id}", style="yellow")
        raise typer.Exit(outcome["exit_code"])
    _show_results(outcome["results"])
    if outcome["model"]:
        output.say(
            f"✓ registered {outcome['model']} as candidate; look at it with: reco models show {outcome['model']}"
        )
    output.say(f"✓ tracked at {outcome['tracking_url']}")


def _show_results(results: dict[str, float]) -> None:
    names = {"knn": "k-NN", "linear": "linear probe", "rank_me": "RankMe"}
    baselines = {"knn_untrained": "untrained encoder, calibrated", "knn_raw_pixels": "raw pixels"}
    k = int(results.get("k", 0))
    table = output.table("", "value", title="What the encoder is worth")
    for key, value in results.items():
        where, _, name = key.partition("/")
        if name in names:
            unit = "" if name == "rank_me" else " %"
            shown = f"{names[name]} (k = {k})" if name == "knn" else names[name]
            table.add_row(f"{shown} on {where}", f"{value:.1f}{unit}", style="bold" if name == "knn" else None)
        elif name in baselines:
            table.add_row(f"  k-NN of {baselines[name]}", f"{value:.1f} %")
    output.show(table)
    for where in ("test", "valid"):
        knn = results.get(f"{where}/knn")
        if knn is None:
            continue
        if knn <= results[f"{where}/knn_untrained"]:
            output.say("! the encoder is no better than an untrained one: train longer, or look at the run's health")
        if knn <= results[f"{where}/knn_raw_pixels"]:
            output.say("! raw pixels are as good here: these pictures are easy to tell apart by their pixels alone")
        break
