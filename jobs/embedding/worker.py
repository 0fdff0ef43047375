"""One worker: reads, decodes and embeds parts, in threads; what comes out depends on positions alone."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.embedding.encoder import Encoder, Floats
from jobs.embedding.sources import Source, Unusable
from jobs.shards.decode import PictureError, Pixels

BATCH = 128
"""Pictures that go through the encoder at once, counted from the beginning of their part."""

_READ_AHEAD = 2
_REMOTE_READS = 8  # files in S3 are waited for one by one in each


class Skipped(NamedTuple):
    """A picture that cannot be used.

    Attributes:
        key: Its name.
        reason: What is wrong with it.
    """

    key: str
    reason: str


class Part(NamedTuple):
    """Embeddings of consecutive pictures; those that cannot be used are missing.

    Attributes:
        keys: Names of the n pictures.
        labels: int64 [n], -1 for none; None where no picture of the source has one.
        features: float32 [n, c].
        skipped: The others.
    """

    keys: list[str]
    labels: NDArray[np.int64] | None
    features: Floats
    skipped: list[Skipped]


class Worker:
    """Embeds parts of a source. Use it as a context manager: leaving it ends its threads.

    Each batch is computed by one thread alone, and `threads` of them at once. So a vector is the same to the last bit
    however many threads and workers there are, while PyTorch's own threads would divide sums by their number.

    Args:
        encoder: On the device.
        source: The pictures.
        threads: Batches that are computed at once on a CPU; on a GPU it is one.
    """

    def __init__(self, encoder: Encoder, source: Source, *, threads: int) -> None:
        self._encoder = encoder
        self._source = source
        self._device = threading.Lock() if encoder.device.type != "cpu" else contextlib.nullcontext()
        self._threads = threads
        remote = any("://" in place for place in source.places)
        readers = max(threads + _READ_AHEAD, _REMOTE_READS if remote else 0)
        self._readers = ThreadPoolExecutor(readers, "embed-read")
        self._lanes = ThreadPoolExecutor(threads, "embed-compute", initializer=_compute_alone)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what is not begun is dropped."""
        for pool in (self._readers, self._lanes):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._readers, self._lanes):
            pool.shutdown(wait=True)

    def embed(self, start: int, stop: int) -> Part:
        """Embed the pictures [start, stop). May be called from several threads.

        Raises:
            StorageError: Pictures cannot be had.
        """
        return self._collect(self._submit(range(start, stop)))

    def embed_each(self, spans: Sequence[range]) -> Iterator[Part]:
        """Embed parts, in their order, and begin the next ones before a part is taken.

        Raises:
            StorageError: Pictures cannot be had.
        """
        at_once = parts_at_once(self._threads, spans)
        under_way: deque[_UnderWay] = deque()
        try:
            for span in spans:
                under_way.append(self._submit(span))
                if len(under_way) == at_once:
                    yield self._collect(under_way.popleft())
            while under_way:
                yield self._collect(under_way.popleft())
        finally:
            for each in under_way:
                each.cancel()

    def _submit(self, span: range) -> _UnderWay:
        # A decoded batch is held by nothing but its two futures, so it is let go as soon as it is computed.
        reads = [
            self._readers.submit(self._decode, first, min(first + BATCH, span.stop))
            for first in range(span.start, span.stop, BATCH)
        ]
        return _UnderWay(span, [self._lanes.submit(self._compute, read) for read in reads])

    def _collect(self, part: _UnderWay) -> Part:
        start, stop = part.span.start, part.span.stop
        try:
            batches = [future.result() for future in part.computed]
        finally:
            part.cancel()
        keys, labels = self._source.keys(start, stop), self._source.labels(start, stop)
        reasons = {place: reason for _, unusable in batches for place, reason in unusable}
        kept = [place for place in range(start, stop) if place not in reasons]
        return Part(
            [keys[place - start] for place in kept],
            labels[np.array(kept, np.int64) - start] if self._source.labelled else None,
            np.concatenate([features for features, _ in batches]),
            [Skipped(keys[place - start], reason) for place, reason in sorted(reasons.items())],
        )

    def _decode(self, start: int, stop: int) -> _Decoded:
        pictures, unusable = [], []
        for place, data in enumerate(self._source.read(start, stop), start):
            if isinstance(data, Unusable):
                unusable.append((place, data.reason))
                continue
            try:
                pictures.append(self._encoder.decode(data))
            except PictureError as error:
                unusable.append((place, error.message))
        return _Decoded(pictures, unusable)

    def _compute(self, read: Future[_Decoded]) -> tuple[Floats, list[tuple[int, str]]]:
        pictures, unusable = read.result()
        with self._device:
            if pictures:
                return self._encoder(pictures), unusable
            return self._encoder([np.zeros((1, 1, 3), np.uint8)])[:0], unusable  # only the encoder knows its width


class _Decoded(NamedTuple):
    """The pictures of a batch that can be used, and positions and reasons of the others."""

    pictures: list[Pixels]
    unusable: list[tuple[int, str]]


class _UnderWay(NamedTuple):
    """A part that is begun: its positions, and its batches as they are computed."""

    span: range
    computed: list[Future[tuple[Floats, list[tuple[int, str]]]]]

    def cancel(self) -> None:
        """Drop the batches that are not begun."""
        for future in self.computed:
            future.cancel()


def spans(count: int, size: int) -> Iterator[range]:
    """Cut positions 0..count-1 into parts of `size`, the last one smaller."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def parts_at_once(threads: int, spans: Iterable[range]) -> int:
    """Parts that keep so many threads busy, and one more for while a finished one is put away."""
    batches = max((math.ceil(len(span) / BATCH) for span in spans), default=1)
    return math.ceil(threads / max(batches, 1)) + 1


def _compute_alone() -> None:
    torch.set_num_threads(1)  # holds for the calling thread
