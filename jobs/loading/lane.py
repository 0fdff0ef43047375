"""One lane as a stream of samples, its next block always on the way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from jobs.loading.block import LoadedBlock, load_block
from jobs.loading.buffers import Buffers
from jobs.loading.parts import AT_ONCE
from jobs.shards.dataset import Dataset
from jobs.shards.order import Block, SampleOrder

_COMFORT = 0.75  # of the time there is: a block that would be there by then came easily


class Lane:
    """Walks through one lane's blocks, always with the next one being fetched.

    A block is read over as few connections as keep up with who takes: to receive the same bytes over several costs more
    CPU where a single one is fast enough, since each brings less at a time.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        lane: int,
        steps: range,
        fetchers: ThreadPoolExecutor,
        helpers: ThreadPoolExecutor,
        stopping: threading.Event,
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._lane = lane
        self._steps = steps
        self._fetchers = fetchers
        self._helpers = helpers
        self._stopping = stopping
        self._buffers = Buffers()
        self._at_once = AT_ONCE
        self._ahead: deque[_Fetch] = deque()
        self._blocks = self._fetches()
        self._block: LoadedBlock | None = None
        self._place = 0
        self._fetch_next()

    def take(self) -> list[tuple[LoadedBlock, int, int]]:
        """The next step's samples as (block, first, after the last)."""
        taken = []
        wanted = self._order.lane_batch_size
        while wanted:
            if self._block is None:
                if not self._ahead:
                    break  # only the last batch of a natural order is short
                self._place, began, pending = self._ahead.popleft()
                self._adapt(pending, time.monotonic() - began)
                self._fetch_next()
                self._block, _ = pending.result()
            count = min(wanted, len(self._block) - self._place)
            taken.append((self._block, self._place, self._place + count))
            self._place += count
            wanted -= count
            if self._place == len(self._block):
                self._block = None
        return taken

    def close(self) -> None:
        """Let go of every block; whoever fetches has ended, and whoever takes."""
        self._blocks.close()
        self._ahead.clear()
        self._block = None

    def _fetch_next(self) -> None:
        following = next(self._blocks, None)
        if following is not None:
            self._ahead.append(following)

    def _fetch(self, block: Block, at_once: int, began: float) -> tuple[LoadedBlock, float]:
        """The block, and the seconds since it was asked for."""
        loaded = load_block(self._dataset, block, self._buffers, self._stopping.is_set, self._helpers, at_once)
        return loaded, time.monotonic() - began

    def _adapt(self, pending: Future[tuple[LoadedBlock, float]], available: float) -> None:
        """Choose over how many connections to read from now on, now that a block is taken."""
        if not pending.done():
            self._at_once = AT_ONCE
        elif self._at_once > 1:
            _, took = pending.result()
            if took * self._at_once / (self._at_once - 1) < _COMFORT * available:
                self._at_once -= 1

    def _fetches(self) -> Generator[_Fetch]:
        """Start fetching the lane's blocks one by one."""
        per_epoch, size = self._order.steps_per_epoch, self._order.lane_batch_size
        step = self._steps.start
        while step < self._steps.stop:
            epoch, position = divmod(step, per_epoch)
            plan = self._order.plan(epoch, self._lane)
            stop = min(self._steps.stop - epoch * per_epoch, per_epoch) * size
            first, place = plan.find(position * size)
            last, _ = plan.find(min(stop, plan.length) - 1)
            for number in range(first, last + 1):
                began = time.monotonic()
                yield _Fetch(place, began, self._fetchers.submit(self._fetch, plan.block(number), self._at_once, began))
                place = 0
            step = (epoch + 1) * per_epoch


class _Fetch(NamedTuple):
    """A block on the way."""

    place: int
    """Where in the block to begin."""
    began: float
    pending: Future[tuple[LoadedBlock, float]]
