"""Small real encoders, registered as a run would register them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch

from jobs.reco import build_encoder
from jobs.tracking.encoders import RegisteredEncoder, register_encoder
from jobs.tracking.evaluations import evaluation
from jobs.tracking.runs import open_run
from jobs.training.probes import preprocessing

SIDE = 16
_NUMBERS = itertools.count()


def random_encoder(seed: int) -> torch.nn.Module:
    """A resnet10 of width 8 whose batch norms have seen something, so that no statistic is a 0 or a 1."""
    torch.manual_seed(seed)
    encoder = build_encoder("resnet10", stem="cifar", width=8).train()
    for _ in range(3):
        encoder(torch.randn(16, 3, SIDE, SIDE) * 2 + 0.5)
    module: torch.nn.Module = encoder.eval()
    return module


def register_random(
    uri: str,
    name: str,
    *,
    seed: int = 0,
    knn: float = 50.0,
    judged_hash: str = "test",
    probe: Path | None = None,
    metrics: Mapping[str, float] | None = None,
) -> RegisteredEncoder:
    """Register such an encoder with the figures it shall have.

    Args:
        uri: Address of MLflow.
        name: Of the model.
        seed: Of its weights.
        knn: Its k-NN accuracy on the probe, in percent.
        judged_hash: Which pictures that was measured on.
        probe: Labelled shards that its spec names.
        metrics: Figures instead of `knn`.
    """
    number = next(_NUMBERS)
    run = open_run(uri, experiment="reco", run_id=f"{name}-{number}", name=name, params={}, tags={})
    shards = f"{{train: {probe}, valid: {probe}, test: {probe}}}" if probe else "null"
    return register_encoder(
        run,
        name=name,
        encoder=random_encoder(seed),
        encoder_config={"name": "resnet10", "stem": "cifar", "width": 8},
        preprocessing=preprocessing(SIDE),
        spec_yaml=(
            f"name: {name}\ndata: {{train: shards, probe: {shards}, image_size: {SIDE}}}\n"
            "encoder: {name: resnet10, stem: cifar, width: 8}\nscale: {workers: 1, gpus_per_worker: 0}\n"
            "train: {precision: fp32}\n"
        ),
        dataset_hash="d1ce",
        metrics={"test/knn": knn},
        card="A random encoder.",
        evaluations=[
            evaluation(
                fitted_hash="train",
                judged_hash=judged_hash,
                data="some shards",
                metrics=metrics or {"knn@20": knn},
                main=next(iter(metrics or {"knn@20": knn})),
            )
        ],
    )
