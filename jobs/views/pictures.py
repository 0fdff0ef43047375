"""Decoded pictures of different sizes in one row of bytes, as the loader hands them over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.views.parameters import Integers


@dataclass(frozen=True)
class Pictures:
    """RGB pictures one after the other, without padding: fewer bytes to move, and nothing to cut off again.

    Attributes:
        pixels: uint8 [bytes], on the device that makes the views. Picture i takes 3 · height · width bytes, row by row.
            After the last picture there is room for another line of the widest one, with any content.
        offsets: First byte of each picture, int64 [n], on the host.
        sizes: Height and width of each, int64 [n, 2], on the host.

    Raises:
        ValueError: The parts do not fit each other.
    """

    pixels: Tensor
    offsets: Integers
    sizes: Integers

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 1:
            raise ValueError(f"pixels must be uint8 [bytes], not {self.pixels.dtype} {list(self.pixels.shape)}")
        if self.offsets.ndim != 1 or self.sizes.shape != (len(self.offsets), 2):
            raise ValueError(f"sizes must be [{len(self.offsets)}, 2], not {list(self.sizes.shape)}")
        if not len(self):
            return
        if self.sizes.min() < 1:
            raise ValueError("every picture has at least one line and one column")
        stops = self.offsets + 3 * self.sizes.prod(axis=1)
        if self.offsets.min() < 0 or stops.max() + 3 * self.sizes[:, 1].max() > len(self.pixels):
            raise ValueError(f"pictures and one more line do not fit into {len(self.pixels)} bytes")

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def pack(cls, pictures: Sequence[NDArray[np.uint8]]) -> Pictures:
        """Lay uint8 [h, w, 3] arrays one after the other, on the CPU."""
        sizes = np.array([picture.shape[:2] for picture in pictures], dtype=np.int64).reshape(-1, 2)
        ends = np.cumsum(3 * sizes.prod(axis=1))
        slack = np.zeros(3 * int(sizes[:, 1].max(initial=0)), dtype=np.uint8)
        pixels = np.concatenate([*(picture.reshape(-1) for picture in pictures), slack])
        return cls(torch.from_numpy(pixels), np.concatenate([[0], ends[:-1]]).astype(np.int64), sizes)

    def picture(self, number: int) -> Tensor:
        """One picture, uint8 [h, w, 3], without a copy."""
        height, width = self.sizes[number].tolist()
        start = int(self.offsets[number])
        return self.pixels[start : start + 3 * height * width].view(height, width, 3)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Pictures:
        """The same on another device."""
        return Pictures(self.pixels.to(device, non_blocking=non_blocking), self.offsets, self.sizes)
