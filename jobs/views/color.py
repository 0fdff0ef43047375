"""Colour jitter with each sample's own order of operations, and greyscale, batched over planes of float levels."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from jobs.views.parameters import CONTRAST, HUE, SATURATION, ColorParameters, Floats, Integers

LUMA: Final = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in Pillow's mode "L" (ITU-R 601-2)."""


_WRAP: Final = 6.0 * 256.0 / 255.0
"""Where a shifted hue starts again, in sixths of a turn: the byte of Pillow has 255 steps, and wraps after 256."""


def schedule(parameters: ColorParameters) -> Integers:
    """Returns the order in which `jitter_` wants the samples: int64 [n], a permutation.

    Samples are independent, so they need not take their steps together: before its hue a sample takes its first
    blends, after it the rest. Sorted by the place of the hue, every group is a slice and no sample is copied.
    """
    return np.argsort(-_places(parameters), kind="stable")


def jitter_(planes: Tensor, parameters: ColorParameters) -> Tensor:
    """Applies brightness, contrast, saturation and hue in place, each sample in its own order, clamped after each.

    Equal to Pillow's `ImageEnhance` within one grey level per operation for factors up to 2 (Pillow cuts off the
    fraction of the result and rounds the grey it blends with, we keep both). The hue is within 8 levels of the round
    trip through Pillow's 8-bit HSV, and within 1 on average.

    Args:
        planes: float32 [3, n, pixels], values in 0..255, changed in place.
        parameters: Of the n samples, sorted by `schedule`.

    Returns:
        `planes`.

    Raises:
        ValueError: The samples are not in the order of `schedule`.
    """
    places = _places(parameters)
    if np.any(places[1:] > places[:-1]):
        raise ValueError("jitter_ wants the samples in the order of schedule()")
    jittered = int(np.count_nonzero(places >= 0))
    if jittered == 0:
        return planes
    rounds = _blend_rounds(parameters, jittered).to(planes.device)
    ahead = [int(np.count_nonzero(places > step)) for step in range(3)]
    still = int(np.count_nonzero(places == _NO_HUE))
    for step in range(3):
        _blend_(planes[:, : ahead[step]], rounds[step, :, : ahead[step]])
    _turn_hue_(planes[:, still:jittered], parameters.factors[still:jittered, HUE])
    for step in range(3):
        _blend_(planes[:, ahead[step] : jittered], rounds[step, :, ahead[step] :])
    return planes


def greyscale_(planes: Tensor, applied: Integers) -> Tensor:
    """Replaces the samples `applied` (int64 [k]) of float32 [3, n, pixels] by their luma in all channels, in place."""
    if len(applied):
        index = torch.from_numpy(applied).to(planes.device)
        planes.index_copy_(1, index, luma(planes.index_select(1, index)).expand(3, -1, -1))
    return planes


def luma(planes: Tensor) -> Tensor:
    """Returns the grey of float32 [3, n, pixels] as Pillow's mode "L" weighs it, not rounded: float32 [n, pixels]."""
    return torch.mul(planes[0], LUMA[0]).add_(planes[1], alpha=LUMA[1]).add_(planes[2], alpha=LUMA[2])


_NO_HUE: Final = 4


def _places(parameters: ColorParameters) -> Integers:
    """Returns at which step each sample turns its hue: 0..3, `_NO_HUE` where it never does, -1 where not jittered."""
    places = (parameters.order == HUE).argmax(axis=1)
    places = np.where(_whole_steps(parameters.factors[:, HUE]) == 0.0, _NO_HUE, places)
    return np.where(parameters.jitter, places, -1)


def _whole_steps(hue: Floats) -> Floats:
    """Returns the shift in whole steps of 1/255 turn, which is all that the hue channel of an 8-bit HSV can take."""
    return np.trunc(hue * 255.0)


def _blend_rounds(parameters: ColorParameters, jittered: int) -> Tensor:
    """Writes each sample's three blends as x ← f·x + s·grey(x) + c·mean(grey(x)): float32 [3 rounds, (f, s, c), n]."""
    order, factors = parameters.order[:jittered], parameters.factors[:jittered]
    blends = order[order != HUE].reshape(jittered, 3)
    factor = np.take_along_axis(factors, blends, axis=1)
    rest = 1.0 - factor
    numbers = np.stack([factor, rest * (blends == SATURATION), rest * (blends == CONTRAST)])
    return torch.from_numpy(np.ascontiguousarray(numbers.transpose(2, 0, 1), dtype=np.float32))


def _blend_(planes: Tensor, round_: Tensor) -> None:
    """Blends float32 [3, n, pixels] in place towards black, its grey, or its mean grey, by float32 [(f, s, c), n]."""
    if planes.shape[1] == 0:
        return
    factor, grey_share, mean_share = round_.unsqueeze(-1)
    grey = luma(planes)
    # The mean is not rounded as Pillow's is: a sum that differs in its last bit must not move a whole picture.
    mean = grey.mean(dim=1, keepdim=True)
    target = grey.mul_(grey_share).add_(mean.mul_(mean_share))
    torch.addcmul(target, planes, factor, out=planes)
    planes.clamp_(0.0, 255.0)


def _turn_hue_(planes: Tensor, hue: Floats) -> None:
    """Turns the hue of float32 [3, n, pixels] in place by `hue` turns (float64 [n]), keeping value and chroma.

    With chroma c = max − min and channels scaled to r = (red − min) / c and so on, the hue in sixths of a turn is
    ±(1 − r + g + b), the sign being that of g − b: the usual three cases in one, without a comparison. Turned back,
    each channel is a trapezium of the hue (Smith, "Color gamut transform pairs", SIGGRAPH 1978).
    """
    if planes.shape[1] == 0:
        return
    shift = torch.from_numpy((_whole_steps(hue) * (6.0 / 255.0)).astype(np.float32)).to(planes.device)
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    hues = (green + blue).sub_(red).add_(value).sub_(least, alpha=2.0).div_(chroma.clamp(min=1e-6))
    hues = hues.copysign_(green - blue)
    hues.sub_((hues * (1.0 / 6.0)).floor_(), alpha=6.0).add_(shift.unsqueeze(-1))
    hues.sub_((hues * (1.0 / _WRAP)).floor_(), alpha=_WRAP)
    torch.addcmul(least.sub_(chroma), chroma, (hues - 3.0).abs_().clamp_(1.0, 2.0), out=red)
    value.add_(chroma)
    torch.addcmul(value, chroma, (hues - 2.0).abs_().clamp_(1.0, 2.0), value=-1.0, out=green)
    torch.addcmul(value, chroma, (hues - 4.0).abs_().clamp_(1.0, 2.0), value=-1.0, out=blue)
