"""What the loader hands over: one step's pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Replaced:
    """A picture that could not be used, and what came in its place.

    Attributes:
        step: The global step.
        epoch: Its epoch.
        sample_id: The picture.
        key: What it is called, as `shard.tar/000012`.
        reason: What is wrong with it.
        by: Sample id of its replacement.
    """

    step: int
    epoch: int
    sample_id: int
    key: str
    reason: str
    by: int


@dataclass(frozen=True)
class Batch:
    """One step's pictures, packed as `jobs.views.Pictures` takes them.

    Attributes:
        step: The global step.
        epoch: Its epoch.
        pixels: uint8[bytes], RGB, one picture after the other, and room for one more line. Memory of the loader: valid
            until the batch is released.
        offsets: First byte of each picture, int64[n].
        sizes: Height and width of each, int64[n, 2].
        sample_ids: int64[n].
        labels: int64[n], -1 for none; None where no sample of the data set has one.
        replaced: Pictures that should have been here.
    """

    step: int
    epoch: int
    pixels: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sample_ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    replaced: tuple[Replaced, ...] = ()

    def __len__(self) -> int:
        return len(self.sample_ids)

    def picture(self, number: int) -> NDArray[np.uint8]:
        """One picture, uint8[h, w, 3], without a copy."""
        height, width = self.sizes[number].tolist()
        start = int(self.offsets[number])
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)


def layout(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Where pictures of these sizes lie when packed, int64[n], and the bytes in all with one more line."""
    ends = np.cumsum(3 * sizes[:, 0] * sizes[:, 1])
    offsets = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return offsets, int(ends[-1]) + 3 * int(sizes[:, 1].max())
