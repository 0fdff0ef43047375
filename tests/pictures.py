"""Small labelled pictures as shards: four classes that differ in hue and in the direction of their stripes."""

from __future__ import annotations

import colorsys
import io
import os
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from jobs.shards.dataset import open_dataset

CLASSES = 4


def striped(label: int, seed: int, side: int = 16) -> np.ndarray:
    """One picture of a class, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    wave = np.sin((rows if label % 2 else columns) * 2 * np.pi / rng.uniform(4, 6) + rng.uniform(0, 6))
    hue = (0.1 if label < 2 else 0.6) + rng.uniform(-0.05, 0.05)
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.7, 1.0))
    picture = (0.5 + 0.4 * wave[..., None]) * colour + rng.normal(0, 0.05, (side, side, 3))
    return (picture.clip(0, 1) * 255).astype(np.uint8)


def write_shards(folder: Path, *, samples: int, shard_samples: int = 40, seed: int = 0, labels: bool = True) -> Path:
    """Write PNG samples, classes in turn, through webdataset's own writer; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, samples, shard_samples)):
        with webdataset.TarWriter(str(folder / f"part-{shard:06d}.tar")) as writer:
            for number in range(start, min(start + shard_samples, samples)):
                buffer = io.BytesIO()
                Image.fromarray(striped(number % CLASSES, seed * 100_003 + number)).save(buffer, "PNG")
                sample = {"__key__": f"{number:06d}", "png": buffer.getvalue()}
                writer.write(sample | ({"cls": number % CLASSES} if labels else {}))
    return folder


def damage(shards: Path, shard: int, numbers: range) -> None:
    """Overwrite the middle of some pictures, so that size and time of the shard stay what the index says."""
    dataset = open_dataset(str(shards))
    path = shards / f"part-{shard:06d}.tar"
    records, before = dataset.records(shard), path.stat()
    data = bytearray(path.read_bytes())
    for number in numbers:
        place = int(records.offsets[number]) + int(records.lengths[number]) // 2
        data[place : place + 16] = bytes(16)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tiny_spec(train: Path, *, probe: Path | None = None, **changes: object) -> str:
    """YAML of a run of seconds on `write_shards` pictures; `changes` are dotted paths with `__` for the dot."""
    probes = f"{{train: {probe}, valid: {probe}, k: 5}}" if probe else "null"
    text = f"""
name: tiny
data: {{train: {train}, probe: {probes}, image_size: 16, shuffle_shards: 2}}
encoder: {{name: resnet10, stem: cifar, width: 8}}
method: {{projection_dim: 16, queue_size: 64, momentum: 0.9, temperature: 0.2, groups: 4}}
views: {{crop_scale: [0.5, 1.0]}}
optimizer: {{lr: 0.05}}
train: {{epochs: 4, warmup_epochs: 1, global_batch_size: 32, precision: fp32, log_every: 2, probe_every: 2}}
scale: {{workers: 1, gpus_per_worker: 0, cpus_per_worker: 1, max_restarts: 2}}
checkpoint: {{every: 4 steps}}
"""
    from jobs.spec import parse_spec, to_yaml

    overrides = [f"{path.replace('__', '.')}={value}" for path, value in changes.items()]
    return to_yaml(parse_spec(text, overrides))
