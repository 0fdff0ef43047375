"""Draws every parameter of a view on the host, as a pure function of (seed, epoch, sample, view)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BRIGHTNESS: Final = 0
CONTRAST: Final = 1
SATURATION: Final = 2
HUE: Final = 3

ORDERS: Final[Integers] = np.array(list(itertools.permutations(range(4))), dtype=np.int64)
"""The 24 orders of the four jitter operations, int64 [24, 4]; entry [i, k] is the operation of order i at step k."""

RATIO: Final = (3 / 4, 4 / 3)
"""Width over height of a random crop, drawn log-uniformly."""
SIGMA: Final = (0.1, 2.0)
"""Standard deviation of the blur in pixels, drawn uniformly (SimCLR, appendix A; MoCo v2)."""
_ATTEMPTS = 10

# A slot is the number of one draw. Fixed slots keep every draw where it is when another is added or switched off.
_AREA, _ASPECT, _TOP, _LEFT, _FLIP = 0, 10, 20, 21, 22
_JITTER, _ORDER, _FACTORS, _GREYSCALE, _BLUR, _SIGMA = 23, 24, 25, 29, 30, 31

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class CropParameters:
    """Boxes in whole pixels and mirror flags, one per view.

    Attributes:
        top: First row, int64 [n].
        left: First column, int64 [n].
        height: Rows, int64 [n].
        width: Columns, int64 [n].
        flip: Whether the crop is mirrored left to right, bool [n].
    """

    top: Integers
    left: Integers
    height: Integers
    width: Integers
    flip: Flags

    def take(self, index: Integers) -> CropParameters:
        """Returns the parameters of the views at `index`, in that order."""
        return CropParameters(
            self.top[index], self.left[index], self.height[index], self.width[index], self.flip[index]
        )


@dataclass(frozen=True)
class ColorParameters:
    """Colour jitter and greyscale, one row per view.

    Attributes:
        jitter: Whether the four operations are applied, bool [n].
        order: Operation at each step, int64 [n, 4].
        factors: Strength, float64 [n, 4], indexed by operation: factors for brightness, contrast and saturation
            (1 changes nothing), and the shift of the hue in turns (0 changes nothing).
        greyscale: Whether the view loses its colour at the end, bool [n].
    """

    jitter: Flags
    order: Integers
    factors: Floats
    greyscale: Flags

    def take(self, index: Integers) -> ColorParameters:
        """Returns the parameters of the views at `index`, in that order."""
        return ColorParameters(self.jitter[index], self.order[index], self.factors[index], self.greyscale[index])


def sample_keys(*, seed: int, epoch: int, sample_ids: Integers, view: int) -> Keys:
    """Hashes the coordinates of each view into a 64-bit key.

    Args:
        seed: The run's seed.
        epoch: Number of the epoch.
        sample_ids: int64 [n].
        view: Number of the view.

    Returns:
        uint64 [n]; the key of a sample does not depend on the others.
    """
    key: Keys = np.zeros(1, dtype=np.uint64)
    for word in (seed, epoch, view):
        key = _mix((key ^ np.uint64(word & _WORD)) + _GOLDEN)
    return _mix((key ^ sample_ids.astype(np.uint64)) + _GOLDEN)


def uniforms(keys: Keys, slots: Sequence[int]) -> Floats:
    """Draws one number in [0, 1) per key and slot: the output `slot` of SplitMix64 seeded with the key.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Args:
        keys: uint64 [n].
        slots: Numbers of the draws.

    Returns:
        float64 [n, len(slots)], with 53 random bits each.
    """
    steps = (np.asarray(slots, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
    bits = _mix(keys[:, None] + steps)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def draw_crops(
    keys: Keys, sizes: Integers, *, scale: tuple[float, float], flip: float, ratio: tuple[float, float] = RATIO
) -> CropParameters:
    """Draws random-resized crops with torchvision's rule.

    Up to ten times, an area uniform in `scale` of the picture and a log-uniform ratio are tried; the first box that
    fits is placed uniformly. Where none fits, the box is the largest central one whose ratio is within bounds.

    Source: Szegedy et al., "Going deeper with convolutions", section 6; torchvision's `RandomResizedCrop`.

    Args:
        keys: uint64 [n].
        sizes: Height and width of each picture, int64 [n, 2].
        scale: Smallest and largest part of the area.
        flip: Probability of mirroring.
        ratio: Smallest and largest width over height.

    Returns:
        Boxes inside the pictures, at least 1×1.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    draws = uniforms(keys, range(_AREA, _FLIP + 1))
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws[:, _AREA:_ASPECT])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[:, _ASPECT:_TOP])
    tried_width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    tried_height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (tried_width > 0) & (tried_width <= width[:, None]) & (tried_height > 0) & (tried_height <= height[:, None])
    first = fits.argmax(axis=1)[:, None]
    found = fits.any(axis=1)

    whole = width / height
    central_width = np.where(whole > ratio[1], np.rint(height * ratio[1]).astype(np.int64), width)
    central_height = np.where(whole < ratio[0], np.rint(width / ratio[0]).astype(np.int64), height)
    box_width = np.where(found, np.take_along_axis(tried_width, first, 1)[:, 0], central_width)
    box_height = np.where(found, np.take_along_axis(tried_height, first, 1)[:, 0], central_height)

    free_rows, free_columns = height - box_height, width - box_width
    top = np.where(found, (draws[:, _TOP] * (free_rows + 1)).astype(np.int64), free_rows // 2)
    left = np.where(found, (draws[:, _LEFT] * (free_columns + 1)).astype(np.int64), free_columns // 2)
    return CropParameters(top, left, box_height, box_width, draws[:, _FLIP] < flip)


def draw_colors(
    keys: Keys,
    *,
    jitter: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    greyscale: float,
) -> ColorParameters:
    """Draws colour jitter and greyscale as torchvision's `ColorJitter` and `RandomGrayscale` do.

    Args:
        keys: uint64 [n].
        jitter: Probability that the four operations are applied.
        brightness: x of the factor's range [max(0, 1 − x), 1 + x].
        contrast: As `brightness`.
        saturation: As `brightness`.
        hue: Largest shift of the hue either way, in turns, 0..0.5.
        greyscale: Probability of losing the colour.

    Returns:
        The parameters of n views.
    """
    draws = uniforms(keys, range(_JITTER, _GREYSCALE + 1))
    spread = np.array([brightness, contrast, saturation])
    low = np.concatenate([np.maximum(0.0, 1.0 - spread), [-hue]])
    high = np.concatenate([1.0 + spread, [hue]])
    first = _FACTORS - _JITTER
    return ColorParameters(
        jitter=draws[:, 0] < jitter,
        order=ORDERS[(draws[:, _ORDER - _JITTER] * len(ORDERS)).astype(np.int64)],
        factors=low + (high - low) * draws[:, first : first + 4],
        greyscale=draws[:, _GREYSCALE - _JITTER] < greyscale,
    )


def draw_sigmas(keys: Keys, *, probability: float) -> Floats:
    """Draws the blur of each view: float64 [n], uniform in `SIGMA` pixels, or 0 where the view is not blurred."""
    draws = uniforms(keys, (_BLUR, _SIGMA))
    return np.where(draws[:, 0] < probability, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * draws[:, 1], 0.0)


def _mix(bits: Keys) -> Keys:
    """Returns the finaliser of SplitMix64, a bijection of words in which every input bit moves every output bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
