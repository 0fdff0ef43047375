"""Batches on their way from the loader's memory to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from jobs.loading.batch import Batch
from jobs.loading.stream import Stream
from jobs.training.pinning import Pinned
from jobs.views import Pictures

AHEAD = 2
"""Batches that are copied to an accelerator before they are needed."""


def slots(device: torch.device) -> int:
    """How many batches of shared memory a stream needs: one in use, one ready, one being filled, copies in flight."""
    return 3 if device.type == "cpu" else 3 + AHEAD


def packed(batch: Batch) -> Pictures:
    """A batch's pictures where they lie, without a copy."""
    return Pictures(torch.from_numpy(batch.pixels), batch.offsets, batch.sizes)


@dataclass(frozen=True)
class DeviceBatch:
    """A batch whose pictures are on the device.

    Attributes:
        batch: The rest of it; its pixels may be gone already.
        pictures: On the device.
    """

    batch: Batch
    pictures: Pictures


class Feed:
    """Iterates over a stream's batches on the device; each is valid until the next is asked for. Leaving it ends it.

    On the CPU pictures are used where the loader put them. To an accelerator they are copied from pinned memory on a
    stream of their own, two batches ahead, so that a step never waits for a copy that could have been made before.

    Args:
        stream: Where from.
        device: Where to.
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self._stream = stream
        self._device = device
        self._pinned = Pinned(stream.ring.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[DeviceBatch]:
        if self._device.type == "cpu":
            return (DeviceBatch(batch, packed(batch)) for batch in self._stream)
        return self._copied()

    def close(self) -> None:
        """End the stream."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # a copy under way reads memory that is let go next
            self._pinned.close()
        self._stream.close()

    def _copied(self) -> Iterator[DeviceBatch]:
        copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        ahead: deque[tuple[DeviceBatch, torch.cuda.Event]] = deque()
        more = True
        while True:
            # The first is waited for; what else is ready goes along.
            while more and len(ahead) <= AHEAD and (not ahead or self._stream.ready()):
                batch = self._stream.take()
                if batch is None:
                    more = False
                    break
                self._pinned.cover(batch.pixels)
                with torch.cuda.stream(copying):
                    pictures = packed(batch).to(self._device, non_blocking=True)
                    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    done.record(copying)
                ahead.append((DeviceBatch(batch, pictures), done))
            if not ahead:
                return
            ready, done = ahead.popleft()
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            ready.pictures.pixels.record_stream(current)
            done.synchronize()  # copied two steps ago: only then may the loader write there again
            self._stream.release(ready.batch)
            yield ready
