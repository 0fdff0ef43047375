"""A sheet of sample pictures with a line under each, as PNG; with Pillow alone, which is here anyway."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jobs.shards.dataset import Dataset
from jobs.shards.decode import PictureError, Pixels, decode
from jobs.shards.errors import DamagedSampleError

_CELL = 160
_LINE = 18
_GAP = 8
_COLUMNS = 8
_LETTERS = 26
_INK = "#1f2937"
_FAINT = "#e5e7eb"


def draw_samples(dataset: Dataset, classes: Sequence[str], *, count: int, seed: int) -> bytes:
    """Draw samples at random.

    Args:
        dataset: What to draw from.
        classes: Names of the labels; empty to write their numbers.
        count: How many, or all where there are not as many.
        seed: The same samples for the same seed.

    Returns:
        PNG. A sample that is damaged shows as an empty cell that says so.

    Raises:
        StorageError: A picture cannot be read.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(dataset), min(count, len(dataset)), replace=False)).tolist()
    cells: list[tuple[Pixels | None, str]] = []
    for number in chosen:
        shard, place = dataset.locate(number)
        label = int(dataset.records(shard).labels[place])
        name = classes[label] if 0 <= label < len(classes) else str(label) if label >= 0 else ""
        caption = name or dataset.records(shard).key(place)
        try:
            cells.append((decode(dataset.fetch(number)), caption))
        except (PictureError, DamagedSampleError):
            cells.append((None, f"damaged: {caption}"))
    return draw_grid(cells)


def draw_grid(cells: Sequence[tuple[Pixels | None, str]]) -> bytes:
    """Lay pictures out in rows, each scaled to fit its cell, with a line under it.

    Args:
        cells: uint8[h, w, 3], or None for an empty cell, and what to write below.

    Returns:
        PNG.
    """
    columns = min(_COLUMNS, max(1, len(cells)))
    rows = -(-len(cells) // columns)
    step = (_CELL + _GAP, _CELL + _LINE + _GAP)
    sheet = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (pixels, caption) in enumerate(cells):
        left, top = _GAP + number % columns * step[0], _GAP + number // columns * step[1]
        pen.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), fill=_FAINT)
        if pixels is not None:
            picture = _fitted(pixels)
            sheet.paste(picture, (left + (_CELL - picture.width) // 2, top + (_CELL - picture.height) // 2))
        text = caption if len(caption) <= _LETTERS else f"{caption[: _LETTERS - 1]}…"
        pen.text((left, top + _CELL + 2), text, fill=_INK, font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _fitted(pixels: Pixels) -> Image.Image:
    picture = Image.fromarray(pixels)
    scale = _CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small pictures keep their pixels visible; large ones are averaged.
    return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
