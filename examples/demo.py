"""`make demo`: pictures to a registered encoder and its embeddings, by the commands a user would type."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from jobs.errors import RecoError
from jobs.shards.dataset import Dataset, open_dataset

DEMO = Path("demo")
SPEC = "examples/demo.yaml"
MODEL = "demo-encoder"


def main(source: str) -> int:
    """Run the demo on `digits`, a folder of pictures, or a folder of shards; returns the exit code."""
    os.environ.setdefault("RECO_HOME", str(DEMO / "home"))
    DEMO.mkdir(exist_ok=True)
    if source != "digits" and list(Path(source).glob("*.tar")):
        train, valid, test = split_shards(source)
        changes = changes_for(train, valid, test)
        held_out = test
    else:
        reco("data", "pack", source, str(DEMO / "shards"), "--split", "train=0.8,valid=0.1,test=0.1", "--overwrite")
        train, valid, test = ([str(DEMO / "shards" / part)] for part in ("train", "valid", "test"))
        changes = [] if source == "digits" else changes_for(train, valid, test)
        held_out = test
    overrides = [word for change in changes for word in ("--set", change)]
    reco("pretrain", SPEC, "--yes", *overrides)
    files = {name: DEMO / name for name in ("embeddings.parquet", "neighbours.png", "map.png")}
    pictures = held_out[0] if len(held_out) == 1 else held_out[-1]
    out, sheet, chart = map(str, files.values())
    reco("embed", f"{MODEL}@candidate", pictures, "-o", out, "--sheet", sheet, "--map", chart)
    print(
        f"\nMade, all of it under {DEMO}/:\n"
        f"  {files['embeddings.parquet']}   embeddings of the held-out pictures\n"
        f"  {files['neighbours.png']}        pictures beside their nearest neighbours\n"
        f"  {files['map.png']}               all of them on a map\n"
        f"  {DEMO / 'home'}                   runs, checkpoints, and a local MLflow server that is still running\n"
        f"\nTry next (export RECO_HOME={os.environ['RECO_HOME']}; the commands are in .venv/bin):\n"
        f"  reco models show {MODEL}@candidate\n"
        f"  reco spec explain method          what every option means\n"
        f"  make demo DATA=your/pictures      the same with your own pictures\n"
        f"  reco tracking stop                end the local MLflow server"
    )
    return 0


def reco(*words: str) -> None:
    """Show a command and run it; a failure ends the demo with its exit code."""
    print(f"\n$ reco {shlex.join(words)}", flush=True)
    ran = subprocess.run(["reco", *words], check=False)
    if ran.returncode:
        sys.exit(ran.returncode)


def split_shards(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Existing shards as they are: the last fifth is held out, half of it for choices and half for the record."""
    shards = sorted(map(str, Path(folder).glob("*.tar")))
    held_out = max(len(shards) // 5, 1)
    if len(shards) < 3:
        print(f"{folder} has {len(shards)} shards: the encoder is judged on pictures it was trained on")
        return shards, shards, shards
    rest, out = shards[:-held_out], shards[-held_out:]
    return rest, out[: max(len(out) // 2, 1)], out[len(out) // 2 :]


def changes_for(train: list[str], valid: list[str], test: list[str]) -> list[str]:
    """Changes of the demo's spec that suit other pictures: sizes, queue, batch, and probes where there are labels."""
    dataset = open_dataset(train)
    samples = len(dataset)
    batch = max(8, min(128, samples // 2 // 8 * 8))
    side = int(np.clip(np.median(dataset.sizes) // 8 * 8, 16, 64))
    changes = [
        f"data.train={as_yaml(train)}",
        f"data.image_size={side}",
        f"train.global_batch_size={batch}",
        f"train.epochs={int(np.clip(40_000 // samples, 6, 60))}",
        "train.log_every=10",
        f"method.queue_size={max(batch, min(4096, samples // 2))}",
        "views.crop_scale=[0.2, 1.0]",
        "views.flip=0.5",
    ]
    if side > 32:
        changes += ["encoder.stem=imagenet", "encoder.width=32"]
    held_out = [open_dataset(valid), open_dataset(test)]
    if labelled(dataset) and all(labelled(part) and shares_classes(dataset, part) for part in held_out):
        parts = {"train": train, "valid": valid, "test": test}
        changes += [f"data.probe.{name}={as_yaml(part)}" for name, part in parts.items()]
        classes = len(np.unique(dataset.labels))
        changes.append(f"data.probe.k={max(1, min(20, samples // classes // 2))}")
    else:
        changes.append("data.probe=null")
    return changes


def labelled(dataset: Dataset) -> bool:
    """Whether every sample has a label and there are at least two classes."""
    return dataset.labels is not None and bool((dataset.labels >= 0).all()) and len(np.unique(dataset.labels)) > 1


def shares_classes(train: Dataset, held_out: Dataset) -> bool:
    """Whether what was seen can tell anything of what is held out: shards may be sorted by class."""
    return (
        train.labels is not None and held_out.labels is not None and bool(np.isin(held_out.labels, train.labels).any())
    )


def as_yaml(parts: list[str]) -> str:
    """One source as it is, several as a list."""
    return parts[0] if len(parts) == 1 else "[" + ", ".join(parts) + "]"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except RecoError as error:
        sys.exit(f"error: {error}")
