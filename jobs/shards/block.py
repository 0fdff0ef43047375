"""One block of a lane in memory: the bytes of its samples, and where each lies in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.shards import order
from jobs.shards.dataset import Dataset

_PART = 8 << 20


class StoppedError(Exception):
    """The loader was closed while this was under way."""


@dataclass(frozen=True)
class LoadedBlock:
    """A fetched block; the columns, of shape [samples], stand in the order in which the lane takes the samples."""

    buffers: list[memoryview]
    """One stretch of bytes per piece of a shard."""
    buffer_of: NDArray[np.int64]
    offsets: NDArray[np.int64]
    """Within the sample's buffer."""
    lengths: NDArray[np.int64]
    crc32c: NDArray[np.uint32]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    formats: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sample_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample_ids)


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
    buffers: list[memoryview] = []
    columns: list[tuple[NDArray[np.generic], ...]] = []
    for piece, (shard, first, count) in enumerate(
        zip(block.shards.tolist(), block.firsts.tolist(), block.counts.tolist(), strict=True)
    ):
        records = dataset.records(shard)
        part = slice(first, first + count)
        offsets, lengths = records.offsets[part], records.lengths[part]
        start, stop = int(offsets.min()), int((offsets + lengths).max())
        buffer = memoryview(bytearray(stop - start))
        for position in range(0, stop - start, _PART):
            if stopped():
                raise StoppedError
            dataset.read_shard(shard, start + position, buffer[position : position + _PART])
        buffers.append(buffer)
        columns.append(
            (
                np.full(count, piece),
                offsets - start,
                lengths,
                records.crc32c[part],
                records.heights[part],
                records.widths[part],
                records.formats[part],
                records.labels[part],
                np.arange(count) + dataset.starts[shard] + first,
            )
        )
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    shuffled = block.permutation()
    if shuffled is not None:
        joined = [column[shuffled] for column in joined]
    return LoadedBlock(buffers, *joined)
