"""One block of a lane in memory: the bytes of its samples, and where each lies in them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.loading.buffers import Buffers
from jobs.loading.parts import Part, divide, read_parts
from jobs.shards import order
from jobs.shards.dataset import Dataset


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


def load_block(
    dataset: Dataset,
    block: order.Block,
    buffers: Buffers,
    stopped: Callable[[], bool],
    helpers: ThreadPoolExecutor | None = None,
    at_once: int = 1,
) -> LoadedBlock:
    """Fetch a block's bytes, each shard's piece of it in one contiguous stretch.

    Args:
        dataset: Where from.
        block: Which samples.
        buffers: Where the memory comes from.
        stopped: Asked between parts of a stretch; a large one takes a while.
        helpers: Threads that read some of the parts; without them one is read after the other.
        at_once: Parts that are read at once.

    Raises:
        StoppedError: `stopped` said so.
        StorageError: The bytes cannot be had.
    """
    stretches = [_stretch(dataset, shard, first, count) for shard, first, count in _pieces(block)]
    buffer = buffers.take(sum(len(stretch) for stretch in stretches))
    view = memoryview(buffer)  # type: ignore[arg-type]  # numpy speaks the buffer protocol; its stubs do not say so
    begins = itertools.accumulate((len(stretch) for stretch in stretches), initial=0)
    wholes = [
        Part(shard, stretch.start, view[begin : begin + len(stretch)])
        for (shard, _, _), stretch, begin in zip(_pieces(block), stretches, begins, strict=False)
    ]
    read_parts(dataset, divide(wholes), stopped, helpers, at_once)
    samples: list[FetchedSample] = []
    begin = 0
    for (shard, first, count), stretch in zip(_pieces(block), stretches, strict=True):
        records = dataset.records(shard)
        here = slice(first, first + count)
        offsets = records.offsets[here] - (stretch.start - begin)
        columns = (offsets, records.lengths[here], records.crc32c[here], records.heights[here], records.widths[here])
        more = (records.formats[here], records.labels[here])
        ids = range(int(dataset.starts[shard]) + first, int(dataset.starts[shard]) + first + count)
        rows = zip(ids, itertools.repeat(buffer), *(column.tolist() for column in (*columns, *more)), strict=False)
        samples += itertools.starmap(FetchedSample, rows)
        begin += len(stretch)
    shuffled = block.permutation()
    return LoadedBlock(samples if shuffled is None else [samples[place] for place in shuffled.tolist()])


def _pieces(block: order.Block) -> Iterator[tuple[int, int, int]]:
    """Shard, first sample and number of samples of each piece of a block."""
    return zip(block.shards.tolist(), block.firsts.tolist(), block.counts.tolist(), strict=True)


def _stretch(dataset: Dataset, shard: int, first: int, count: int) -> range:
    """The bytes of a shard that a piece lies in."""
    records = dataset.records(shard)
    offsets, lengths = records.offsets[first : first + count], records.lengths[first : first + count]
    return range(int(offsets.min()), int((offsets + lengths).max()))
