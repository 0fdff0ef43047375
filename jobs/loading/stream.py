"""A stream of batches from the loader process, which goes on where it stood when that process dies."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs.child import DiedError
from jobs.loading.batch import Batch
from jobs.loading.messages import Counters, Ended, Failed, Filled, Release, Start, Stop
from jobs.loading.patience import Wait
from jobs.loading.slots import Ring

if TYPE_CHECKING:
    from jobs.loading.process import LoaderProcess


class Stream:
    """Batches, in order. Iterate over it, or `take` and `release` them.

    Args:
        loader: Its process.
        request: What to begin with.
        ring: Where batches lie.
    """

    def __init__(self, loader: LoaderProcess, request: Start, ring: Ring) -> None:
        self._loader = loader
        self.request = request
        self.ring = ring
        self.inbox: deque[Filled | Ended | Failed] = deque()
        self.counters = Counters()
        self._generation = 0
        self._before = Counters()
        self._next = request.start
        self._held: dict[int, int] = {}
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches, each valid until the next is asked for."""
        while (batch := self.take()) is not None:
            try:
                yield batch
            finally:
                self.release(batch)

    def take(self) -> Batch | None:
        """The next batch; None after the last. Its memory is yours until it is released.

        Raises:
            DamagedSampleError: A picture cannot be used, and none may stand in for it.
            StorageError: Bytes cannot be had.
            LoaderDiedError: The process keeps ending.
            StalledError: Nothing came for too long.
        """
        while not self._closed and self._next < self.request.stop:
            try:
                self._start_or_resume()
                return self._next_batch()
            except DiedError as error:
                self._loader.mourn(error)
        return None

    def ready(self) -> bool:
        """Whether `take` would not wait, as far as can be known."""
        if self._closed or self._next >= self.request.stop:
            return True
        try:
            self._start_or_resume()
            while not self.inbox and self._loader.receive(0.0):
                pass
        except DiedError as error:
            self._loader.mourn(error)
        return bool(self.inbox)

    def release(self, batch: Batch) -> None:
        """Let the batch's memory be written again."""
        slot = self._held.pop(batch.step, None)
        if slot is None or self._closed or self._generation != self._loader.generation:
            return
        with contextlib.suppress(DiedError):  # noticed when the next batch is taken
            self._loader.send(Release(self.request.stream, slot))

    def close(self) -> None:
        """End the stream; batches not yet taken are dropped. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._loader.forget(self)
        if self._generation == self._loader.generation:
            with contextlib.suppress(DiedError):
                self._loader.send(Stop(self.request.stream))
        self.ring.close()

    def resumed(self) -> Start:
        """What to begin with now: the next batch, in the slots that are not in use."""
        held = set(self._held.values())
        free = tuple(slot for slot in range(self.request.slots) if slot not in held)
        fields = {**vars(self.request), "start": self._next, "free": free}
        return Start(**fields)

    def _start_or_resume(self) -> None:
        if self._generation == self._loader.generation and self._loader.pid is not None:
            return
        self.inbox.clear()
        died = Counters(restarts=1 if self._generation else 0)
        self._before = self.counters = self.counters + died
        self._loader.begin(self)
        self._generation = self._loader.generation

    def _next_batch(self) -> Batch | None:
        loader = self._loader
        wait = Wait(loader.patience, loader.ask, "data", no_reads="decoding is slow, or memory is short")
        loader.receive_until(lambda: bool(self.inbox), wait)
        message = self.inbox.popleft()
        if isinstance(message, Failed):
            self.close()
            raise message.error
        if isinstance(message, Ended):
            self._next = self.request.stop
            return None
        loader.delivered()
        self._next = message.step + 1
        self._held[message.step] = message.slot
        self.counters = self._before + message.counters
        return Batch(
            step=message.step,
            epoch=message.epoch,
            pixels=self.ring.again(message.slot, message.size),
            offsets=message.offsets,
            sizes=message.sizes,
            sample_ids=message.sample_ids,
            labels=message.labels,
            replaced=message.replaced,
        )
