"""A tiny encoder and small pictures, and vectors worked out the slow way."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from jobs.reco import build_encoder
from jobs.tracking.files import CONFIG, PREPROCESSING, WEIGHTS, sha256
from tests.pictures import striped

SIDE = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_encoder(folder: Path, *, seed: int = 0, width: int = 8, mean: tuple[float, ...] = MEAN) -> Path:
    """The files of an untrained encoder for pictures of 16 pixels; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    module = build_encoder("resnet10", stem="cifar", width=width)
    save_file(module.state_dict(), folder / WEIGHTS)
    config = {"name": "resnet10", "stem": "cifar", "width": width, "feature_dim": module.feature_dim}
    (folder / CONFIG).write_text(json.dumps(config | {"sha256": sha256(folder / WEIGHTS)}))
    prepared = {"image_size": SIDE, "crop_fraction": 1.0, "mean": mean, "std": STD}
    (folder / PREPROCESSING).write_text(json.dumps(prepared))
    return folder


def png(number: int, side: int = SIDE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(striped(number % 2, number, side)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(folder: Path, count: int) -> Path:
    """PNG files in the folders `columns` and `rows`, one after the other; returns the folder."""
    for number in range(count):
        place = folder / ("columns", "rows")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05d}.png").write_bytes(png(number))
    return folder


def add_slow_files(folder: Path, count: int = 8) -> Path:
    """Add pictures, last in order, that take a third of a second each to decode: no job is over at once."""
    place = folder / "vast"
    place.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(buffer, "PNG")
    for number in range(count):
        (place / f"{number:05d}.png").write_bytes(buffer.getvalue())
    return folder


@torch.no_grad()
def slow_vectors(encoder: Path, pictures: list[bytes], mean: tuple[float, ...] = MEAN) -> np.ndarray:
    """One picture of 16 pixels after the other, without any of the code that embeds."""
    from safetensors.torch import load_file

    config = json.loads((encoder / CONFIG).read_text())
    module = build_encoder("resnet10", stem="cifar", width=config["width"])
    module.load_state_dict(load_file(encoder / WEIGHTS))
    module.eval()
    rows = []
    for data in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255
        normalised = (pixels - np.array(mean, np.float32)) / np.array(STD, np.float32)
        rows.append(module(torch.from_numpy(normalised).permute(2, 0, 1)[None])[0].numpy())
    return np.stack(rows)
