"""Batches of decoded pictures, fetched and decoded ahead of the consumer by threads."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import google_crc32c
import numpy as np

from jobs.loading.batch import Batch, Replaced, layout
from jobs.loading.block import FetchedSample
from jobs.loading.channel import Channel
from jobs.loading.detail import Detail
from jobs.loading.lane import Lane
from jobs.loading.memory import IN_HAND, READS
from jobs.loading.parts import AT_ONCE
from jobs.loading.pending import Pending, Row
from jobs.loading.slots import Heap, Slots, StoppedError
from jobs.shards.dataset import Dataset
from jobs.shards.decode import Bytes, PictureError, Pixels, decode_into
from jobs.shards.errors import DamagedSampleError
from jobs.shards.order import NaturalOrder, SampleOrder
from jobs.shards.records import FORMATS

_FETCHERS = 8  # blocks that are fetched at once; their parts are more
_READ_THREADS = 2


class Pipeline:
    """Iterates over the batches of the global steps start..stop-1, in order, each with the slot that holds it.

    Each lane's next block is fetched while its present one is decoded, and `IN_HAND` batches are in the making. Besides
    the slots, memory holds the blocks that these batches lie in and each lane's next one; a block is let go when the
    last picture taken from it is decoded. What is yielded depends on the order alone, never on threads: a pipeline that
    starts later goes on exactly where another would be.

    A picture that cannot be used (its bytes are wrong on a second fetch too, or cannot be decoded) is replaced by the
    next usable one of its block, or is an error where nothing may be replaced. Bytes that cannot be had are always an
    error: it is raised to the consumer when it asks for the batch it belongs to, and ends the iteration. Use it as a
    context manager: leaving it ends every thread.

    Args:
        dataset: The samples.
        order: Who comes when.
        lanes: The lanes of this worker.
        start: First global step.
        stop: The step after the last.
        threads: Decoding threads.
        slots: Where pixels go; fresh memory by default.
        detail: How far large pictures may be scaled down; not at all by default.
        replace: Whether pictures that cannot be used are replaced.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        *,
        lanes: range,
        start: int,
        stop: int,
        threads: int,
        slots: Slots | None = None,
        detail: Detail | None = None,
        replace: bool = False,
    ) -> None:
        if not lanes or start < 0 or threads < 1:
            raise ValueError(f"no lanes, a negative start or no threads: {lanes}, {start}, {threads}")
        self._dataset = dataset
        self._order = order
        self._steps = range(start, stop)
        self._threads = threads
        self._slots = slots or Heap()
        self._detail = detail
        self._replace = replace
        self._labelled = dataset.num_classes > 0
        self._unusable: dict[int, str] = {}
        self._decode_s = 0.0
        self._decode_lock = threading.Lock()
        self._stopping = threading.Event()
        self._ready = Channel[Pending | BaseException](IN_HAND - 1)
        fetchers = min(_FETCHERS, len(lanes))
        self._fetchers = ThreadPoolExecutor(fetchers, thread_name_prefix="shards-fetch")
        self._helpers = ThreadPoolExecutor(min(READS, AT_ONCE * fetchers) - fetchers, "shards-read")
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="shards-decode")
        self._lanes = [
            Lane(dataset, order, lane, self._steps, self._fetchers, self._helpers, self._stopping) for lane in lanes
        ]
        self._planner = threading.Thread(target=self._plan, name="shards-plan", daemon=True)
        self._planner.start()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Yield the remaining batches, each with its slot.

        Raises:
            DamagedSampleError: A picture cannot be used, and none can stand in for it.
            StorageError: Bytes cannot be had.
        """
        while (made := self._next()) is not None:
            yield made

    @property
    def decode_s(self) -> float:
        """CPU seconds that the decoding threads have spent so far."""
        return self._decode_s

    def close(self) -> None:
        """End every thread; batches not yet taken are dropped. Safe to call twice."""
        self._stopping.set()
        self._slots.close()
        self._ready.close()
        pools = (self._fetchers, self._helpers, self._decoders)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        self._planner.join()
        for pool in pools:
            pool.shutdown(wait=True)
        for lane in self._lanes:
            lane.close()

    def _next(self) -> tuple[int, Batch] | None:
        pending = self._ready.get()
        try:
            if isinstance(pending, BaseException):
                raise pending
            return None if pending is None else self._finish(pending)
        except BaseException as error:
            self.close()
            _let_go(error)
            raise
        finally:
            del pending  # an error that is raised here would keep itself alive

    def _plan(self) -> None:
        """Body of the planning thread: one pending batch after the other, no further ahead than the channel lets it."""
        try:
            for step in self._steps:
                if not self._ready.wait_for_room():
                    return
                self._ready.put(self._start_batch(step))
        except BaseException as error:  # noqa: BLE001 - it is handed to the consumer, whatever it is
            _let_go(error)
            self._ready.put(error)
        finally:
            self._ready.finish()

    def _start_batch(self, step: int) -> Pending:
        rows: list[Row] = []
        for lane in self._lanes:
            for block, low, high in lane.take():
                rows += [Row(block, row) for row in range(low, high)]
        return self._start_decoding(step, rows, slot=None)

    def _start_decoding(self, step: int, rows: list[Row], slot: int | None) -> Pending:
        """Lay the batch out, with what is known to be unusable replaced, and let it be decoded."""
        chosen = [self._usable(row) for row in rows] if self._unusable else rows
        samples = [row.sample for row in chosen]
        sizes = np.array([(sample.height, sample.width) for sample in samples], dtype=np.int64)
        factors = np.ones(len(sizes), np.int64)
        if self._detail is not None:
            factors, sizes = self._detail.scaled(sizes)
        offsets, size = layout(sizes)
        if slot is None:
            slot, pixels = self._slots.take(size)
        else:
            pixels = self._slots.again(slot, size)
        # A few samples per task: one each would spend more on the hand-over than small pictures take to decode.
        share = -(-len(samples) // self._threads)
        tasks = []
        for first in range(0, len(samples), share):
            part = slice(first, first + share)
            places = zip(offsets[part].tolist(), sizes[part].tolist(), factors[part].tolist(), strict=True)
            tasks.append(self._decoders.submit(self._decode, samples[part], list(places), pixels))
        return Pending(step, rows, chosen, slot, pixels, offsets, sizes, tasks)

    def _finish(self, pending: Pending) -> tuple[int, Batch]:
        """Wait until a batch is decoded; where pictures turn out unusable, decode it again with their replacements."""
        while failed := {sample: reason for task in pending.tasks for sample, reason in task.result()}:
            if not self._replace:
                raise self._dataset.damaged(*next(iter(failed.items())))
            self._unusable.update(failed)
            pending = self._start_decoding(pending.step, pending.rows, pending.slot)
        chosen, epoch = pending.chosen, pending.step // self._order.steps_per_epoch
        replaced = [
            Replaced(
                step=pending.step,
                epoch=epoch,
                sample_id=row.sample.sample_id,
                key=self._dataset.key(row.sample.sample_id),
                reason=self._unusable[row.sample.sample_id],
                by=other.sample.sample_id,
            )
            for row, other in zip(pending.rows, chosen, strict=True)
            if row is not other
        ]
        batch = Batch(
            step=pending.step,
            epoch=epoch,
            pixels=pending.pixels,
            offsets=pending.offsets,
            sizes=pending.sizes,
            sample_ids=np.array([row.sample.sample_id for row in chosen], dtype=np.int64),
            labels=np.array([row.sample.label for row in chosen], dtype=np.int64) if self._labelled else None,
            replaced=tuple(replaced),
        )
        return pending.slot, batch

    def _usable(self, row: Row) -> Row:
        """The row, or where it is unusable the next usable one of its block: a function of the data alone."""
        block, lost = row.block, row.sample.sample_id
        for distance in range(len(block)):
            other = Row(block, (row.number + distance) % len(block))
            if other.sample.sample_id not in self._unusable:
                return other if distance else row
        raise self._dataset.damaged(lost, f"{self._unusable[lost]}, as is all that is stored near it")

    def _decode(
        self, samples: list[FetchedSample], places: list[tuple[int, list[int], int]], pixels: Pixels
    ) -> list[tuple[int, str]]:
        """Decode some pictures of a batch; returns those that cannot be, with the reason."""
        failed = []
        start = time.thread_time()
        for sample, (offset, (height, width), factor) in zip(samples, places, strict=True):
            if self._stopping.is_set():
                raise StoppedError
            out = pixels[offset : offset + 3 * height * width].reshape(height, width, 3)
            if (reason := self._fill(out, sample, factor)) is not None:
                failed.append((sample.sample_id, reason))
        with self._decode_lock:
            self._decode_s += time.thread_time() - start
        return failed

    def _fill(self, out: Pixels, sample: FetchedSample, factor: int) -> str | None:
        """Check and decode one sample: the one place where a sample is given up; returns why, or None."""
        data: Bytes = sample.data()
        if google_crc32c.value(data) != sample.crc32c:
            try:
                data = self._dataset.fetch(sample.sample_id, again=True)
            except DamagedSampleError as error:
                return error.reason
        try:
            decode_into(data, FORMATS[sample.format], out, factor=factor)
        except PictureError as error:
            return error.message
        return None


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
        DamagedSampleError: As in `Pipeline`.
        StorageError: As in `Pipeline`.
    """
    stop = min(stop, len(dataset))
    if start < 0 or batch_size < 1:
        raise ValueError(f"a negative start or an empty batch: {start}, {batch_size}")
    if start >= stop:
        return
    order = NaturalOrder(dataset.counts, start=start, stop=stop, batch_size=batch_size)
    steps = order.steps_per_epoch
    with Pipeline(dataset, order, lanes=range(1), start=0, stop=steps, threads=_READ_THREADS) as pipeline:
        for _, batch in pipeline:
            yield batch


def _let_go(error: BaseException) -> None:
    """Empty the frames an error came through: with futures that hold it, they would keep blocks and slots in memory."""
    traceback.clear_frames(error.__traceback__)
