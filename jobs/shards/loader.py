"""Batches of decoded pictures, fetched and decoded ahead of the consumer by threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from jobs.shards.block import LoadedBlock, StoppedError
from jobs.shards.channel import Channel
from jobs.shards.dataset import Dataset
from jobs.shards.decode import FORMATS, PictureError, Pixels, decode_into
from jobs.shards.lane import Lane, SampleOrder
from jobs.shards.order import NaturalOrder

_AHEAD = 2  # batches that may stand decoded before the consumer asks
_FETCHERS = 8
_READ_THREADS = 2


@dataclass(frozen=True)
class Batch:
    """One step's pictures.

    Attributes:
        step: The global step.
        epoch: Its epoch.
        pictures: uint8[n, H, W, 3], RGB, padded with zeros at the bottom and right to the largest of the batch.
        sizes: True heights and widths, int32[n, 2].
        sample_ids: int64[n].
        labels: int64[n], -1 for none; None where no sample of the data set has one.
    """

    step: int
    epoch: int
    pictures: Pixels
    sizes: NDArray[np.int32]
    sample_ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None


class Loader:
    """Iterates over the batches of the global steps start..stop-1, in order.

    Each lane's next block is fetched while its present one is decoded, and up to two batches stand ready. So memory
    holds at most two blocks per lane, besides three batches. What is yielded depends on the order alone, never on
    threads: a loader that starts later goes on exactly where another would be.

    An error in any thread is raised to the consumer when it asks for the batch that the error belongs to, and ends the
    iteration; it never waits for data that cannot come. Use it as a context manager: leaving it ends every thread.

    Args:
        dataset: The samples.
        order: Who comes when.
        lanes: The lanes of this worker.
        start: First global step.
        stop: The step after the last.
        threads: Decoding threads.
    """

    def __init__(
        self, dataset: Dataset, order: SampleOrder, *, lanes: range, start: int, stop: int, threads: int
    ) -> None:
        if not lanes or start < 0 or threads < 1:
            raise ValueError(f"no lanes, a negative start or no threads: {lanes}, {start}, {threads}")
        self._dataset = dataset
        self._order = order
        self._steps = range(start, stop)
        self._threads = threads
        self._labelled = dataset.num_classes > 0
        self._stopping = threading.Event()
        self._ready = Channel[_Pending](_AHEAD)
        self._fetchers = ThreadPoolExecutor(min(_FETCHERS, len(lanes)), thread_name_prefix="shards-fetch")
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="shards-decode")
        self._lanes = [Lane(dataset, order, lane, self._steps, self._fetchers, self._stopping) for lane in lanes]
        self._planner = threading.Thread(target=self._plan, name="shards-plan", daemon=True)
        self._planner.start()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches.

        Raises:
            DamagedSampleError: A sample's bytes are wrong, twice, or cannot be decoded.
            StorageError: Bytes cannot be had.
        """
        while True:
            pending = self._ready.get()
            if pending is None:
                return
            try:
                batch = pending.result()
            except BaseException:
                self.close()
                raise
            yield batch

    def close(self) -> None:
        """End every thread; batches not yet taken are dropped. Safe to call twice."""
        self._stopping.set()
        self._ready.close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._planner.join()
        self._fetchers.shutdown(wait=True)
        self._decoders.shutdown(wait=True)

    def _plan(self) -> None:
        """Body of the planning thread: one pending batch after the other, no further ahead than the channel lets it."""
        try:
            for step in self._steps:
                if not self._ready.wait_for_room():
                    return
                self._ready.put(self._start_batch(step))
        except BaseException as error:  # noqa: BLE001 - it is handed to the consumer, whatever it is
            self._ready.put(_Pending.failed(error))
        finally:
            self._ready.finish()

    def _start_batch(self, step: int) -> _Pending:
        taken: list[tuple[LoadedBlock, int, int]] = []
        for lane in self._lanes:
            taken += lane.take()
        sizes = np.concatenate(
            [np.stack([block.heights[low:high], block.widths[low:high]], axis=1) for block, low, high in taken]
        )
        height, width = sizes.max(axis=0)
        ragged = bool((sizes != (height, width)).any())
        pictures = (np.zeros if ragged else np.empty)((len(sizes), height, width, 3), np.uint8)
        batch = Batch(
            step=step,
            epoch=step // self._order.steps_per_epoch,
            pictures=pictures,
            sizes=sizes,
            sample_ids=np.concatenate([block.sample_ids[low:high] for block, low, high in taken]),
            labels=np.concatenate([block.labels[low:high] for block, low, high in taken]) if self._labelled else None,
        )
        # A few samples per task: one each would spend more on the hand-over than small pictures take to decode.
        share = -(-len(sizes) // self._threads)
        tasks, begin = [], 0
        for block, low, high in taken:
            for first in range(low, high, share):
                last = min(first + share, high)
                slots = pictures[begin + first - low : begin + last - low]
                tasks.append(self._decoders.submit(self._decode, block, first, last, slots))
            begin += high - low
        return _Pending(batch, tasks)

    def _decode(self, block: LoadedBlock, first: int, last: int, slots: Pixels) -> None:
        part = slice(first, last)
        rows = zip(
            slots,
            block.buffer_of[part].tolist(),
            block.offsets[part].tolist(),
            block.lengths[part].tolist(),
            block.crc32c[part].tolist(),
            block.heights[part].tolist(),
            block.widths[part].tolist(),
            block.formats[part].tolist(),
            block.sample_ids[part].tolist(),
            strict=True,
        )
        for slot, buffer, offset, length, crc, height, width, kind, sample_id in rows:
            if self._stopping.is_set():
                raise StoppedError
            data = bytes(block.buffers[buffer][offset : offset + length])
            self._fill(slot[:height, :width], data, crc, FORMATS[kind], sample_id)

    def _fill(self, out: Pixels, data: bytes, crc: int, kind: str, sample_id: int) -> None:
        """Check and decode one sample: the one place where a sample is given up."""
        if google_crc32c.value(data) != crc:
            data = self._dataset.fetch(sample_id, tries=1)
        try:
            decode_into(data, kind, out)
        except PictureError as error:
            raise self._dataset.damaged(sample_id, error.message) from error


def read_in_order(dataset: Dataset, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
    """Read the samples start..stop-1 as they are stored, each once; the last batch may be smaller.

    Args:
        dataset: The samples.
        start: First sample.
        stop: The sample after the last; no more than the data set has are read.
        batch_size: Samples per batch.

    Yields:
        Batches whose steps count from 0, in epoch 0.

    Raises:
        DamagedSampleError: As in `Loader`.
        StorageError: As in `Loader`.
    """
    stop = min(stop, len(dataset))
    if start < 0 or batch_size < 1:
        raise ValueError(f"a negative start or an empty batch: {start}, {batch_size}")
    if start >= stop:
        return
    order = NaturalOrder(dataset.counts, start=start, stop=stop, batch_size=batch_size)
    steps = order.steps_per_epoch
    with Loader(dataset, order, lanes=range(1), start=0, stop=steps, threads=_READ_THREADS) as loader:
        yield from loader


class _Pending:
    """A batch whose slots are being filled."""

    def __init__(self, batch: Batch | None, tasks: list[Future[None]], error: BaseException | None = None) -> None:
        self._batch = batch
        self._tasks = tasks
        self._error = error

    @classmethod
    def failed(cls, error: BaseException) -> _Pending:
        return cls(None, [], error)

    def result(self) -> Batch:
        for task in self._tasks:
            task.result()
        if self._batch is None:
            assert self._error is not None
            raise self._error
        return self._batch
