"""How far a large picture may be scaled down while it is decoded, which JPEG gives almost for free."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FACTORS = 3  # powers of two that a JPEG's transform can leave out: 1/2, 1/4, 1/8


@dataclass(frozen=True)
class Detail:
    """What the views need: their smallest crop must still have `side` pixels, so that none is ever blown up for it.

    The smallest crop's side is the smaller of `of_short` times a picture's short side and `of_area` times the root of
    its area.

    Attributes:
        side: Side of a view in pixels.
        of_short: See above.
        of_area: See above.
    """

    side: int
    of_short: float
    of_area: float

    @classmethod
    def of_random_crops(cls, side: int, smallest_area: float, narrowest: float = 3 / 4) -> Detail:
        """For crops of at least `smallest_area` of a picture and sides no more unlike than `narrowest`."""
        return cls(side, 1.0, math.sqrt(smallest_area * narrowest))

    @classmethod
    def of_centre(cls, side: int, crop_fraction: float) -> Detail:
        """For the centre square of `crop_fraction` of the short side."""
        return cls(side, crop_fraction, crop_fraction)

    def scaled(self, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The factor 1, 2, 4 or 8 of each picture, int64[n], and its size after it, int64[n, 2]."""
        crop = np.minimum(self.of_short * sizes.min(axis=1), self.of_area * np.sqrt(sizes.prod(axis=1)))
        power = np.floor(np.log2(np.maximum(crop / self.side, 1.0))).astype(np.int64)
        factors = 1 << np.minimum(power, _FACTORS)
        return factors, -(-sizes // factors[:, None])

    def most_pixels(self, longest: int, most: int) -> int:
        """No picture has more pixels than this once it is scaled.

        Args:
            longest: Longest side in the data set.
            most: Most pixels of a picture in the data set.
        """
        # A crop of twice the side would have been halved once more; beyond 1/8 nothing is.
        by_area = math.ceil((2 * self.side / self.of_area) ** 2)
        by_short = math.ceil(2 * self.side / self.of_short) * longest
        rounding = 2 * longest + 1
        return min(most, max(by_area, by_short, -(-most // 64)) + rounding)
