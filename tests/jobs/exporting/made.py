"""Encoders in folders, as they are fetched, and what tests of exports ask of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from jobs.reco import build_encoder
from jobs.tracking.files import CONFIG, PREPROCESSING, WEIGHTS, sha256
from jobs.tracking.reference import write_reference
from jobs.views import MEAN, STD

NOWHERE = Path("/nonexistent")
"""Home of a local MLflow server that an encoder's folder must not need."""

Main = Callable[..., tuple[int, str, str]]
"""The entrypoint: model, format, file and flags to exit code, stdout and stderr."""


def encoder_of(network: str, *, stem: str, width: int, size: int) -> nn.Module:
    """A network whose batch norms all have weights and statistics of their own: none can be mistaken for another."""
    torch.manual_seed(0)
    module = build_encoder(network, stem=stem, width=width)  # type: ignore[arg-type]
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    module.train()
    for _ in range(2):
        module(torch.randn(8, 3, size, size) * 2 + 0.5)
    return module.eval().requires_grad_(False)


def settings(size: int) -> dict[str, object]:
    return {"image_size": size, "crop_fraction": 1.0, "mean": list(MEAN), "std": list(STD)}


def save(folder: Path, network: str, *, stem: str, width: int, size: int) -> Path:
    """A folder with an encoder, as one is fetched."""
    module = encoder_of(network, stem=stem, width=width, size=size)
    folder.mkdir()
    save_file(module.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    config = {"name": network, "stem": stem, "width": width, "feature_dim": module.feature_dim}
    (folder / CONFIG).write_text(json.dumps(config | {"sha256": sha256(folder / WEIGHTS)}))
    (folder / PREPROCESSING).write_text(json.dumps(settings(size)))
    write_reference(module, folder, size=size)
    return folder


def amend(folder: Path, file: str, **values: object) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
