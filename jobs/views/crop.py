"""Crops, resizes and mirrors a batch of pictures as batched matrix products with antialiased triangle weights."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.views.parameters import CropParameters, Integers

_BAND: Final = 32
"""Output lines per band: shorter bands waste fewer products with zero weights, longer ones copy fewer shared lines."""


def crop_resize_flip(pictures: Tensor, sources: Integers, crops: CropParameters, image_size: int) -> Tensor:
    """Resizes one box per view to a square, equal to Pillow's `crop(box).resize(size, BILINEAR)` within one grey level.

    A separable resize is Wy · picture · Wxᵀ, where row s of Wy holds a triangle as wide as the reduction factor around
    the place of output row s, cut off at the box and summing to 1; mirroring reverses the rows of Wx. Both matrices
    are banded, so each product runs over bands of output rows, with only the input rows that a band needs. Pillow
    rounds to whole levels after each of its two passes; we do not, which is where the one level comes from.

    Args:
        pictures: uint8 [n, H, W, 3], contiguous; pixels outside of a box are never used, so padding does not show.
        sources: Picture of each view, int64 [views].
        crops: Boxes inside the pictures, one per view.
        image_size: Side S of the result in pixels.

    Returns:
        float32 [3, views, S, S], contiguous, values in 0..255, not rounded.
    """
    count, height, width, _ = pictures.shape
    views = len(sources)
    rows = _resample(
        pictures.reshape(count, height, width * 3), sources, crops.top, crops.height, None, image_size
    )  # [views, bands, W·3, S/bands]: the product is kept transposed, so that the columns are rows of the next one
    columns = rows.view(views, -1, width, 3, rows.shape[-1]).permute(0, 2, 3, 1, 4).reshape(views, width, -1)
    planes = _resample(columns, np.arange(views), crops.left, crops.width, crops.flip, image_size)
    bands, band = planes.shape[1], planes.shape[3]
    planes = planes.view(views, bands, 3, image_size, band).permute(2, 0, 3, 1, 4)
    return planes.reshape(3, views, image_size, image_size)


def _resample(
    lines: Tensor, sources: Integers, start: Integers, length: Integers, reverse: NDArray[np.bool_] | None, size: int
) -> Tensor:
    """Resizes the lines [start, start + length) of each view's source to `size` lines.

    Args:
        lines: uint8 or float32 [n, lines, features].
        sources: Which of the n each view reads, int64 [views].
        start: First line of the box, int64 [views].
        length: Lines of the box, int64 [views].
        reverse: Whether the result comes in reverse, bool [views], or None for never.
        size: Lines of the result.

    Returns:
        float32 [views, bands, features, size / bands].
    """
    total, features = lines.shape[1], lines.shape[2]
    views, bands = len(sources), _bands(size)
    band = size // bands

    scale = length / size
    support = np.maximum(scale, 1.0)
    centres = start[:, None] + (np.arange(size) + 0.5) * scale[:, None]
    if reverse is not None:
        centres = np.where(reverse[:, None], centres[:, ::-1], centres)
    centres = centres.reshape(views, bands, band)
    nearest, farthest = np.minimum(centres[..., 0], centres[..., -1]), np.maximum(centres[..., 0], centres[..., -1])
    box_start, box_stop = start[:, None], (start + length)[:, None]
    begin = np.maximum(box_start, np.floor(nearest - support[:, None] + 0.5).astype(np.int64))
    end = np.minimum(box_stop, np.floor(farthest + support[:, None] + 0.5).astype(np.int64))
    window = int((end - begin).max())
    begin = np.minimum(begin, total - window)

    # One small transfer per axis: what the weights of a band are made from, in lines counted from the band's window.
    step = np.where(reverse, -scale, scale) if reverse is not None else scale
    numbers = np.empty((views, bands, 5), dtype=np.float32)
    numbers[..., 0] = centres[..., 0] - begin - 0.5
    numbers[..., 1] = step[:, None]
    numbers[..., 2] = 1.0 / support[:, None]
    numbers[..., 3] = box_start - begin
    numbers[..., 4] = box_stop - begin
    weights = _triangles(torch.from_numpy(numbers).to(lines.device), window, band)

    first = torch.from_numpy(sources[:, None] * total + begin).to(lines.device)
    index = (first[..., None] + torch.arange(window, device=lines.device)).flatten()
    windows = lines.reshape(-1, features).index_select(0, index).view(views * bands, window, features)
    product = torch.bmm(windows.to(torch.float32).transpose(1, 2), weights)
    return product.view(views, bands, features, band)


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


def _bands(size: int) -> int:
    """Returns into how many equal bands `size` lines are cut: about `_BAND` lines each, one band where none divides."""
    wanted = -(-size // _BAND)
    return next((bands for bands in range(wanted, 2 * wanted) if size % bands == 0), 1)
