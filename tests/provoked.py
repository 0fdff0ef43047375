"""Runs that go wrong on purpose, each in one way, beside the same run left alone: what a verdict has to tell apart."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor

from jobs.reco import ReCo, StepOutput, StepViews
from jobs.run_folder import Record, RunFolder
from jobs.spec import parse_spec, to_yaml
from jobs.training.divergence import DivergedError
from jobs.training.ranks import Ranks
from jobs.training.run import run

STEPS = 200
PICTURES = 1408  # eleven steps an epoch, no picture left out
_SPEC = """
name: provoked
data: {{train: {shards}, probe: null, image_size: 16}}
encoder: {{name: resnet10, stem: cifar, width: 16}}
method:
  projection_dim: 64
  queue_size: 512
  momentum: 0.99
  temperature: 0.1
  groups: 2
  local_relation: {{weight: 0.1}}
views: {{crop_scale: [0.4, 1.0], flip: 0.0}}
optimizer: {{lr: 0.03}}
train: {{epochs: 19, warmup_epochs: 5, global_batch_size: 128, precision: bf16, log_every: 10, probe_every: 100}}
scale: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1}}
checkpoint: {{every: 10m}}
"""


@dataclass(frozen=True)
class Case:
    """A way to run it.

    Attributes:
        changes: Options, by path.
        black: Whether all pictures are black.
        leaking: Whether the queue is filled before the logits are made.
    """

    changes: MappingProxyType[str, float] = field(default_factory=lambda: MappingProxyType({}))
    black: bool = False
    leaking: bool = False


def _changed(**changes: float) -> Case:
    return Case(MappingProxyType({path.replace("__", "."): value for path, value in changes.items()}))


HEALTHY = {
    "ReCo": Case(),
    "MoCo v2": _changed(method__global_relation__weight=0, method__local_relation__weight=0),
}
FAILURES = {
    "no EMA": _changed(method__momentum=0),
    "leak": Case(leaking=True),
    "temperature too low": _changed(method__temperature=0.01),
    "learning rate too high": _changed(optimizer__lr=1),
    "pictures alike": Case(black=True),
}
"""By the name that the verdict has for it."""


def provoke(case: Case, seed: int, work: Path) -> list[Record]:
    """Train so for `STEPS` steps, or until it diverges; what each logging step measured.

    Args:
        case: What is done to the run.
        seed: Of the run.
        work: A folder for pictures, which are made once, and for the run.
    """
    shards = work / ("black" if case.black else "digits")
    if not shards.exists():
        write_digits(shards, black=case.black)
    changes = [f"{path}={value}" for path, value in case.changes.items()]
    spec = parse_spec(_SPEC.format(shards=shards), [*changes, f"train.seed={seed}"])
    folder = RunFolder(str(work / "runs"), f"{spec.hash}-{seed}{'-leak' if case.leaking else ''}")
    (work / "spec.yaml").write_text(to_yaml(spec))
    folder.claim(spec)
    torch.set_num_threads(1)
    with leaking() if case.leaking else contextlib.nullcontext(), contextlib.suppress(DivergedError):
        run(spec, folder, Ranks(0, 1, torch.device("cpu")))
    return [record for record in folder.records() if record["step"] <= STEPS]


def write_digits(folder: Path, *, black: bool = False) -> None:
    """Handwritten digits as one shard of PNG pictures, 16 pixels a side; or as many black ones."""
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / "digits-000000.tar")) as writer:
        for number, digit in enumerate(load_digits().images[:PICTURES]):
            pixels = (
                np.zeros((16, 16), np.uint8) if black else (digit.repeat(2, 0).repeat(2, 1) * 15.9).astype(np.uint8)
            )
            buffer = io.BytesIO()
            Image.fromarray(pixels).convert("RGB").save(buffer, "PNG")
            writer.write({"__key__": f"{number:06d}", "png": buffer.getvalue()})


@contextlib.contextmanager
def leaking() -> Iterator[None]:
    """Fill the queue with a step's keys before its logits are made, a mistake that is made in practice."""
    keys_of, enqueue = ReCo._keys, ReCo.enqueue

    @functools.wraps(keys_of)
    def early(self: ReCo, views: StepViews, step: int) -> tuple[Tensor, Tensor | None]:
        keys, weak_keys = keys_of(self, views, step)
        enqueue(self, StepOutput(torch.zeros(()), {}, keys, weak_keys))
        return keys, weak_keys

    ReCo._keys, ReCo.enqueue = early, lambda self, output: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ReCo._keys, ReCo.enqueue = keys_of, enqueue  # type: ignore[method-assign]
