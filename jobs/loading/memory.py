"""How much memory a loader process can take at most, from what is known before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.loading.buffers import SPARE
from jobs.loading.detail import Detail
from jobs.loading.messages import Opened

IN_HAND = 3
"""Batches of a stream in the making: one that is waited for, and those that are begun before it is taken."""

READS = 16
"""Most reads of a stream that are under way at once: beyond, the interpreter is the limit."""

_PROCESS = 210_000_000  # Python, numpy, boto3 and the decoders, measured: 90 to 130 MB; the rest is for receiving
_CACHE_PIECE = 8 << 20  # that a read goes through on its way into a cache
_SAMPLE = 400  # of a block in memory: its row of the index as Python's numbers
_RECORDS_KEPT = 64  # shards, as `Dataset` says
_RECORD = 100  # of a shard whose records are kept: its row of the index as numpy's


@dataclass(frozen=True)
class Reading:
    """One stream, as far as its memory goes.

    Attributes:
        dataset: What is read.
        detail: How far large pictures are scaled down.
        lanes: Of this worker.
        batch: Pictures of this worker in a step.
        steps: Of an epoch; None where no other follows it.
        block_shards: Shards in a block.
        slots: Batches in shared memory.
    """

    dataset: Opened
    detail: Detail
    lanes: int
    batch: int
    steps: int | None
    block_shards: int
    slots: int

    @classmethod
    def in_order(cls, dataset: Opened, detail: Detail, *, batch: int, slots: int) -> Reading:
        """All of a data set once, as it is stored."""
        batch = min(batch, len(dataset))
        return cls(dataset, detail, lanes=1, batch=batch, steps=None, block_shards=1, slots=slots)

    def most_bytes(self, threads: int) -> int:
        """An upper bound on the memory of the stream, its shared slots included.

        Args:
            threads: That decode.
        """
        known = self.dataset
        slots = (
            self.slots * 3 * (self.batch * self.detail.most_pixels(known.longest, known.most_pixels) + known.longest)
        )
        # A PNG or WebP, and a JPEG that only Pillow reads, is decoded whole before it is scaled down.
        decoding = threads * 2 * 3 * known.most_pixels
        return slots + decoding + self._most_bytes_of_blocks()

    def _most_bytes_of_blocks(self) -> int:
        """Of all blocks that the batches in hand lie in, and of those that come next.

        Of the samples in hand a lane has those of whole shards in the middle, wherever they are largest; the block in
        which they begin, the one in which they end, and the next, which is being fetched; and where an epoch ends among
        them, two shards that were cut between lanes.
        """
        counts = self.dataset.counts
        weights = self.dataset.shard_sizes + _SAMPLE * counts
        descending = np.sort(weights)[::-1]
        block, shard = int(descending[: self.block_shards].sum()), int(descending[0])
        epochs = 1 if self.steps is None else math.ceil((IN_HAND - 1) / self.steps) + 1
        each = IN_HAND * self.batch / self.lanes / epochs

        def reused(samples: float) -> float:
            # Memory used again may have held a larger block: no larger than allowed, nor than any there is.
            return min(SPARE * _most(samples, counts, weights), _most(samples, counts, np.full_like(weights, shard)))

        lane = 3 * block + epochs * reused(each) + 2 * (epochs - 1) * shard
        # Whatever the lanes hold, no sample is in an epoch twice; the next blocks may be those of one more.
        return math.ceil(min(self.lanes * lane, (epochs + 1) * SPARE * int(weights.sum())))


def most_bytes(training: Reading, probes: Sequence[Reading] = (), *, threads: int, cached: bool = False) -> int:
    """An upper bound on a loader's memory; what it touches is usually far less.

    Args:
        training: The stream that stays open all the time.
        probes: Streams that are open meanwhile, one at a time.
        threads: Decoding threads of each stream.
        cached: Whether shards are kept on a local disk.
    """
    kept = {reading.dataset.number: _records(reading.dataset) for reading in (training, *probes)}
    streams = training.most_bytes(threads) + max((probe.most_bytes(threads) for probe in probes), default=0)
    caching = (2 if probes else 1) * READS * _CACHE_PIECE if cached else 0
    return _PROCESS + sum(kept.values()) + streams + caching


def _records(dataset: Opened) -> int:
    """Bytes of what is kept of the index."""
    return _RECORD * int(np.sort(dataset.counts)[::-1][:_RECORDS_KEPT].sum())


def _most(samples: float, counts: NDArray[np.int64], weights: NDArray[np.int64]) -> float:
    """The largest weight of so many samples, where they are those of whole shards."""
    counts, weights = counts[counts > 0], weights[counts > 0]
    heaviest = np.argsort(-weights / counts)
    ends, sums = (np.concatenate([[0], np.cumsum(column[heaviest])]) for column in (counts, weights))
    return float(np.interp(samples, ends, sums))
