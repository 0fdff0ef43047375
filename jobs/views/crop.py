"""Crops, resizes and mirrors a batch of pictures as batched matrix products with antialiased triangle weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.views.parameters import CropParameters, Floats, Integers
from jobs.views.pictures import Pictures

_BAND: Final = 32
"""Output lines per band: shorter bands waste fewer products with zero weights, longer ones copy fewer shared lines."""


def crop_resize_flip(pictures: Pictures, sources: Integers, crops: CropParameters, image_size: int) -> Tensor:
    """Resizes one box per view to a square, equal to Pillow's `crop(box).resize(size, BILINEAR)` within one grey level.

    A separable resize is Wy · picture · Wxᵀ, where row s of Wy holds a triangle as wide as the reduction factor around
    the place of output row s, cut off at the box and summing to 1; mirroring reverses the rows of Wx. Both matrices
    are banded, so each product runs over bands of output rows, with only the input rows that a band needs, and of
    these only the columns of the box. Pillow rounds to whole levels after each of its two passes; we do not, which is
    where the one level comes from.

    Args:
        pictures: The pictures.
        sources: Picture of each view, int64 [views].
        crops: Boxes inside the pictures, one per view.
        image_size: Side S of the result in pixels.

    Returns:
        float32 [3, views, S, S], contiguous, values in 0..255, not rounded.
    """
    views, device = len(sources), pictures.pixels.device
    rows = _bands(crops.top, crops.height, None, image_size)
    width = int(crops.width.max())
    lines = _lines(pictures, sources, crops.left, rows, 3 * width)
    # [views, bands, width · 3, S / bands]: the product is kept transposed, so that columns are rows of the next one
    product = _weighted(lines, rows, device)
    columns = product.view(views, -1, width, 3, rows.band).permute(0, 2, 3, 1, 4).reshape(views, width, -1)

    across = _bands(np.zeros_like(crops.left), crops.width, crops.flip, image_size)
    begin = np.minimum(across.begin, width - across.window)  # every window lies within the gathered columns
    across = replace(across, begin=begin)
    first = torch.from_numpy(np.arange(views)[:, None] * width + begin).to(device)
    index = (first[..., None] + torch.arange(across.window, device=device)).flatten()
    windows = columns.reshape(views * width, -1).index_select(0, index).view(-1, across.window, columns.shape[-1])
    planes = _weighted(windows, across, device)
    bands, band = planes.shape[1], planes.shape[3]
    planes = planes.view(views, bands, 3, image_size, band).permute(2, 0, 3, 1, 4)
    return planes.reshape(3, views, image_size, image_size)


@dataclass(frozen=True)
class _Bands:
    """What each band of output lines of each view needs of its source.

    Attributes:
        begin: First line of its window, int64 [views, bands].
        window: Lines in a window.
        band: Output lines in a band.
        centres: Place of each output line in the source, float64 [views, bands, band].
        step: Distance of two output lines in the source, negative where mirrored, float64 [views].
        support: Half the width of the triangle, float64 [views].
        start: First line of the box, int64 [views].
        stop: The line after its last, int64 [views].
    """

    begin: Integers
    window: int
    band: int
    centres: Floats
    step: Floats
    support: Floats
    start: Integers
    stop: Integers


def _bands(start: Integers, length: Integers, reverse: NDArray[np.bool_] | None, size: int) -> _Bands:
    """Cuts `size` output lines of each view into bands.

    Args:
        start: First line of the box, int64 [views].
        length: Lines of the box, int64 [views].
        reverse: Whether the result comes in reverse, bool [views], or None for never.
        size: Lines of the result.
    """
    bands = _band_count(size)
    scale = length / size
    support = np.maximum(scale, 1.0)
    centres = start[:, None] + (np.arange(size) + 0.5) * scale[:, None]
    if reverse is not None:
        centres = np.where(reverse[:, None], centres[:, ::-1], centres)
    centres = centres.reshape(len(start), bands, size // bands)
    nearest, farthest = np.minimum(centres[..., 0], centres[..., -1]), np.maximum(centres[..., 0], centres[..., -1])
    stop = start + length
    begin = np.maximum(start[:, None], np.floor(nearest - support[:, None] + 0.5).astype(np.int64))
    end = np.minimum(stop[:, None], np.floor(farthest + support[:, None] + 0.5).astype(np.int64))
    return _Bands(
        begin=begin,
        window=int((end - begin).max()),
        band=size // bands,
        centres=centres,
        step=scale if reverse is None else np.where(reverse, -scale, scale),
        support=support,
        start=start,
        stop=stop,
    )


def _lines(pictures: Pictures, sources: Integers, left: Integers, bands: _Bands, length: int) -> Tensor:
    """Gathers each band's window of lines, from the left of the box, straight out of the packed pictures.

    Returns:
        uint8 [views · bands, window, length]. What lies beyond a box or a picture has no weight later.
    """
    pixels = pictures.pixels
    width = pictures.sizes[sources, 1]
    # One small transfer: where each view's column begins, how long its lines are, its last line, its windows.
    numbers = np.column_stack(
        [pictures.offsets[sources] + 3 * left, 3 * width, pictures.sizes[sources, 0] - 1, bands.begin]
    )
    moved = torch.from_numpy(numbers).to(pixels.device)
    column, pitch, last, begin = moved[:, :1], moved[:, 1:2], moved[:, 2:3], moved[:, 3:]
    line = begin.unsqueeze(-1) + torch.arange(bands.window, device=pixels.device)
    line = torch.minimum(line, last.unsqueeze(-1))  # the window of a small picture may be longer than the picture
    places = column.unsqueeze(-1) + line * pitch.unsqueeze(-1)
    # Every stretch of `length` bytes is a row of this view, wherever it begins; nothing is copied for it.
    stretches = pixels.as_strided((len(pixels) - length + 1, length), (1, 1))
    return stretches.index_select(0, places.flatten()).view(-1, bands.window, length)


def _weighted(windows: Tensor, bands: _Bands, device: torch.device) -> Tensor:
    """Sums windows of lines with triangle weights.

    Args:
        windows: uint8 or float32 [views · bands, window, features].
        bands: Where the windows begin.
        device: Where to compute.

    Returns:
        float32 [views, bands, features, band].
    """
    views, count = bands.begin.shape
    # One small transfer: what the weights of a band are made from, in lines counted from the band's window.
    numbers = np.empty((views, count, 5), dtype=np.float32)
    numbers[..., 0] = bands.centres[..., 0] - bands.begin - 0.5
    numbers[..., 1] = bands.step[:, None]
    numbers[..., 2] = 1.0 / bands.support[:, None]
    numbers[..., 3] = bands.start[:, None] - bands.begin
    numbers[..., 4] = bands.stop[:, None] - bands.begin
    weights = _triangles(torch.from_numpy(numbers).to(device), bands.window, bands.band)
    product = torch.bmm(windows.to(torch.float32).transpose(1, 2), weights)
    return product.view(views, count, windows.shape[-1], bands.band)


def _triangles(numbers: Tensor, window: int, band: int) -> Tensor:
    """Returns the weights float32 [views · bands, window, band]; entry [·, l, s] is the share of line l in output s."""
    first, step, inverse_support, box_start, box_stop = numbers.flatten(0, 1).unsqueeze(-1).unbind(1)
    line = torch.arange(window, dtype=torch.float32, device=numbers.device)
    centres = first + step * torch.arange(band, dtype=torch.float32, device=numbers.device)
    weights = (line[None, :, None] - centres[:, None, :]).abs_()
    weights = weights.mul_(-inverse_support[:, :, None]).add_(1.0).clamp_(min=0.0)
    inside = (line >= box_start) & (line < box_stop)
    weights.mul_(inside.unsqueeze(-1))
    return weights.div_(weights.sum(dim=1, keepdim=True))


def _band_count(size: int) -> int:
    """Returns into how many equal bands `size` lines are cut: about `_BAND` lines each, one band where none divides."""
    wanted = -(-size // _BAND)
    return next((bands for bands in range(wanted, 2 * wanted) if size % bands == 0), 1)
