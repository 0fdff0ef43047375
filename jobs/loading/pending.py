"""A batch on its way: which places in which blocks it is made of, and what is being decoded."""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.loading.block import FetchedSample, LoadedBlock
from jobs.shards.decode import Pixels


class Row(NamedTuple):
    """One place in a block."""

    block: LoadedBlock
    number: int

    @property
    def sample(self) -> FetchedSample:
        """What stands there."""
        return self.block.samples[self.number]


class Pending(NamedTuple):
    """A batch that is being decoded."""

    step: int
    rows: list[Row]
    """As the order has them."""
    chosen: list[Row]
    """With replacements."""
    slot: int
    pixels: Pixels
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tasks: list[Future[list[tuple[int, str]]]]
