"""How much memory a loader process can take at most, from what is known before it starts."""

from __future__ import annotations

from jobs.loading.detail import Detail
from jobs.loading.messages import Opened

_PROCESS = 190_000_000  # Python, numpy, boto3 and the decoders, measured: 90 to 130 MB; 40 MB kept for receiving
_BLOCKS_PER_LANE = 3  # the one that is fetched, the one that is decoded, and the one before it, used again


def most_bytes(
    dataset: Opened, detail: Detail, *, lanes: int, batch: int, shuffle_shards: int, slots: int, threads: int
) -> int:
    """An upper bound on a loader's memory; what it touches is usually far less.

    Args:
        dataset: What is read.
        detail: How far large pictures are scaled down.
        lanes: Of this worker.
        batch: Pictures of this worker in a step.
        shuffle_shards: Shards in a block.
        slots: Batches in shared memory.
        threads: Decoding threads.
    """
    pictures = slots * 3 * (batch * detail.most_pixels(dataset.longest, dataset.most_pixels) + dataset.longest)
    blocks = _BLOCKS_PER_LANE * min(lanes * shuffle_shards * dataset.largest_shard, dataset.size)
    # A PNG or WebP, and a JPEG that only Pillow reads, is decoded whole before it is scaled down.
    decoding = threads * 2 * 3 * dataset.most_pixels
    return _PROCESS + pictures + blocks + decoding
