"""Gaussian blur with one standard deviation per sample, separable and batched."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.views.parameters import SIGMA, Floats

RADIUS: Final = int(4 * SIGMA[1])
"""Reach of the kernel in pixels: four standard deviations of the widest blur, beyond which 0.006 % of it lies."""


def blur_(planes: Tensor, sigmas: Floats) -> Tensor:
    """Blurs the samples with a positive sigma in place; the border repeats its outermost pixel, as in Pillow.

    The kernel is the Gaussian sampled at whole pixels and normalised, in float32. Pillow's `GaussianBlur` stands for it
    three box blurs of the same variance and rounds each: on smooth pictures the two differ by at most 3 levels, 0.7 on
    average (measured at sigmas 0.5 to 2).

    Args:
        planes: float32 [3, n, height, width], changed in place.
        sigmas: Standard deviations in pixels, float64 [n]; 0 leaves a sample as it is.

    Returns:
        `planes`.
    """
    blurred = np.flatnonzero(sigmas > 0.0)
    if len(blurred) == 0:
        return planes
    index = torch.from_numpy(blurred).to(planes.device)
    kernels = _kernels(sigmas[blurred]).to(planes.device)
    picture = planes.index_select(1, index)
    planes.index_copy_(1, index, _convolve(picture, kernels))
    return planes


def _kernels(sigmas: Floats) -> Tensor:
    """Returns the taps of each sample, float32 [n, 2 · RADIUS + 1]; each row sums to 1."""
    offsets = np.arange(-RADIUS, RADIUS + 1)
    taps = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    return torch.from_numpy((taps / taps.sum(axis=1, keepdims=True)).astype(np.float32))


def _convolve(planes: Tensor, kernels: Tensor) -> Tensor:
    """Convolves float32 [3, n, height, width] along both axes with each sample's kernel [n, taps], borders repeated."""
    channels, count, height, width = planes.shape
    taps = kernels.repeat(channels, 1)
    groups = channels * count
    padded = F.pad(planes.view(1, groups, height, width), (0, 0, RADIUS, RADIUS), mode="replicate")
    rows = F.conv2d(padded, taps.view(groups, 1, -1, 1), groups=groups)
    padded = F.pad(rows, (RADIUS, RADIUS, 0, 0), mode="replicate")
    return F.conv2d(padded, taps.view(groups, 1, 1, -1), groups=groups).view_as(planes)
