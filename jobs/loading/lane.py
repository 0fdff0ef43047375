"""One lane as a stream of samples, its next block always on the way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from jobs.loading.block import LoadedBlock, load_block
from jobs.loading.buffers import Buffers
from jobs.shards.dataset import Dataset
from jobs.shards.order import SampleOrder


class Lane:
    """Walks through one lane's blocks, always with the next one being fetched."""

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        lane: int,
        steps: range,
        fetchers: ThreadPoolExecutor,
        stopping: threading.Event,
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._lane = lane
        self._steps = steps
        self._fetchers = fetchers
        self._stopping = stopping
        self._buffers = Buffers()
        self._ahead: deque[tuple[int, Future[LoadedBlock]]] = deque()
        self._blocks = self._fetches()
        self._block: LoadedBlock | None = None
        self._place = 0
        self._fetch_next()

    def take(self) -> list[tuple[LoadedBlock, int, int]]:
        """The next step's samples as (block, first, after the last)."""
        taken = []
        wanted = self._order.lane_batch_size
        while wanted:
            if self._block is None or self._place == len(self._block):
                if not self._ahead:
                    break  # only the last batch of a natural order is short
                self._place, pending = self._ahead.popleft()
                self._fetch_next()
                self._block = pending.result()
            count = min(wanted, len(self._block) - self._place)
            taken.append((self._block, self._place, self._place + count))
            self._place += count
            wanted -= count
        return taken

    def _fetch_next(self) -> None:
        following = next(self._blocks, None)
        if following is not None:
            self._ahead.append(following)

    def _fetches(self) -> Iterator[tuple[int, Future[LoadedBlock]]]:
        """Start fetching the lane's blocks one by one; yields where in the block to begin, and the block to come."""
        per_epoch, size = self._order.steps_per_epoch, self._order.lane_batch_size
        step = self._steps.start
        while step < self._steps.stop:
            epoch, position = divmod(step, per_epoch)
            plan = self._order.plan(epoch, self._lane)
            stop = min(self._steps.stop - epoch * per_epoch, per_epoch) * size
            first, place = plan.find(position * size)
            last, _ = plan.find(min(stop, plan.length) - 1)
            for number in range(first, last + 1):
                yield (
                    place,
                    self._fetchers.submit(
                        load_block, self._dataset, plan.block(number), self._buffers, self._stopping.is_set
                    ),
                )
                place = 0
            step = (epoch + 1) * per_epoch
