"""The usual data path, for comparison: webdataset, Pillow, and all three views on the CPU in DataLoader workers.

Written as the authors' recipes are: torchvision's transforms on PIL pictures. torchvision itself is not needed for it;
its PIL back end calls the same Pillow functions that are called here.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from webdataset.gopen import gopen_schemes

from jobs.views import MEAN, STD


def batches(urls: list[str], *, image_size: int, batch_size: int, workers: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches of two strong and one weak view, float32 [n, 3, S, S], without an end."""
    gopen_schemes["s3"] = _open_s3
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0, empty_check=False, nodesplitter=None)
        .repeat()
        .shuffle(200)
        .map(lambda sample: _views(sample, image_size))
        .batched(batch_size)
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2)
    return iter(loader)


def _open_s3(url: str, mode: str = "rb", bufsize: int = 1 << 20, **_: Any) -> io.BufferedReader:  # noqa: ANN401
    import boto3

    bucket, _, key = url.removeprefix("s3://").partition("/")
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
    return io.BufferedReader(body._raw_stream, buffer_size=1 << 20)


def _views(sample: dict[str, Any], size: int) -> tuple[np.ndarray, ...]:
    data = next(sample[suffix] for suffix in ("jpg", "jpeg", "png", "webp") if suffix in sample)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return _strong(picture, size), _strong(picture, size), _to_array(_crop_and_flip(picture, size))


def _strong(picture: Image.Image, size: int) -> np.ndarray:
    view = _crop_and_flip(picture, size)
    if random.random() < 0.8:
        view = _jitter(view)
    if random.random() < 0.2:
        view = view.convert("L").convert("RGB")
    if random.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return _to_array(view)


def _crop_and_flip(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    for _ in range(10):
        area = width * height * random.uniform(0.2, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    view = picture.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else view


def _jitter(view: Image.Image) -> Image.Image:
    steps = [
        lambda v: ImageEnhance.Brightness(v).enhance(random.uniform(0.6, 1.4)),
        lambda v: ImageEnhance.Contrast(v).enhance(random.uniform(0.6, 1.4)),
        lambda v: ImageEnhance.Color(v).enhance(random.uniform(0.6, 1.4)),
        lambda v: _shift_hue(v, random.uniform(-0.1, 0.1)),
    ]
    random.shuffle(steps)
    for step in steps:
        view = step(view)
    return view


def _shift_hue(view: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = view.convert("HSV").split()
    shifted = np.asarray(hue) + np.array(shift * 255).astype(np.int32).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted, "L"), saturation, value)).convert("RGB")


def _to_array(view: Image.Image) -> np.ndarray:
    pixels = np.asarray(view, dtype=np.float32) / 255.0
    normalised: np.ndarray = ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)
    return normalised
