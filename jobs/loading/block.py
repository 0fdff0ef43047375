"""One block of a lane in memory: the bytes of its samples, and where each lies in them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.loading.slots import StoppedError
from jobs.shards import order
from jobs.shards.dataset import Dataset

_PART = 16 << 20


class FetchedSample(NamedTuple):
    """One encoded picture in memory, and what the index knows of it."""

    sample_id: int
    buffer: NDArray[np.uint8]
    offset: int
    """Within the buffer."""
    length: int
    crc32c: int
    height: int
    width: int
    format: int
    """Its number in `FORMATS`."""
    label: int

    def data(self) -> NDArray[np.uint8]:
        """The encoded bytes, uint8[length], without a copy."""
        return self.buffer[self.offset : self.offset + self.length]


@dataclass(frozen=True)
class LoadedBlock:
    """A fetched block; its samples stand in the order in which the lane takes them."""

    samples: list[FetchedSample]

    def __len__(self) -> int:
        return len(self.samples)


def load_block(dataset: Dataset, block: order.Block, stopped: Callable[[], bool]) -> LoadedBlock:
    """Fetch a block's bytes, each piece in one contiguous stretch.

    Args:
        dataset: Where from.
        block: Which samples.
        stopped: Asked between parts of a stretch; a large one takes a while.

    Raises:
        StoppedError: `stopped` said so.
        StorageError: The bytes cannot be had.
    """
    samples: list[FetchedSample] = []
    for shard, first, count in zip(block.shards.tolist(), block.firsts.tolist(), block.counts.tolist(), strict=True):
        records = dataset.records(shard)
        part = slice(first, first + count)
        offsets, lengths = records.offsets[part], records.lengths[part]
        start, stop = int(offsets.min()), int((offsets + lengths).max())
        buffer = np.empty(stop - start, np.uint8)  # as a bytearray it would first be filled with zeros
        view = memoryview(buffer)  # type: ignore[arg-type]  # numpy speaks the buffer protocol; its stubs do not say so
        for position in range(0, stop - start, _PART):
            if stopped():
                raise StoppedError
            dataset.read_shard(shard, start + position, view[position : position + _PART])
        columns = (offsets - start, lengths, records.crc32c[part], records.heights[part], records.widths[part])
        ids = range(int(dataset.starts[shard]) + first, int(dataset.starts[shard]) + first + count)
        more = (records.formats[part], records.labels[part])
        rows = zip(ids, itertools.repeat(buffer), *(column.tolist() for column in (*columns, *more)), strict=False)
        samples += itertools.starmap(FetchedSample, rows)
    shuffled = block.permutation()
    return LoadedBlock(samples if shuffled is None else [samples[place] for place in shuffled.tolist()])
