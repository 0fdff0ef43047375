"""Memory that batches are decoded into: a ring shared between two processes, or the heap of one."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.errors import RecoError


class StoppedError(Exception):
    """The loader was closed while this was under way."""


class Slots(Protocol):
    """Where a batch's pixels go."""

    def take(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """A free slot's number and `size` bytes of it; waits for one.

        Raises:
            StoppedError: The slots were closed.
        """

    def again(self, slot: int, size: int) -> NDArray[np.uint8]:
        """`size` bytes of a slot that was taken, to be written anew."""

    def close(self) -> None:
        """Let nobody wait any longer."""


class Heap:
    """Fresh memory for every batch."""

    def take(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """See `Slots.take`; never waits."""
        return 0, np.empty(size, np.uint8)

    def again(self, slot: int, size: int) -> NDArray[np.uint8]:
        """See `Slots.again`."""
        return np.empty(size, np.uint8)

    def close(self) -> None:
        """Nothing to do."""


class Ring:
    """A few slots of equal size in memory without a name, which another process can map too.

    The memory belongs to whoever holds its descriptor: when the last of them ends, however it ends, the kernel takes
    it back. So nothing can be left in /dev/shm, and its size, 64 MB in most containers, is no limit. Pages that no
    batch has touched cost nothing.

    Args:
        descriptor: From `create` or another process; owned by the ring from now on.
        slots: How many.
        size: Bytes of each.
        free: Numbers of those that may be written to.
    """

    def __init__(self, descriptor: int, *, slots: int, size: int, free: Iterable[int]) -> None:
        self.descriptor = descriptor
        self.slots = slots
        self.size = size
        memory = mmap.mmap(descriptor, slots * size)
        with contextlib.suppress(OSError):  # fewer and larger pages, where the system lets shared memory have them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(memory, np.uint8).reshape(slots, size)
        self._free = list(free)
        self._changed = threading.Condition()
        self._closed = False

    @classmethod
    def create(cls, *, slots: int, size: int) -> Ring:
        """A ring of its own, all slots free.

        Raises:
            RecoError: There is not as much address space.
        """
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages: an accelerator registers these
        descriptor = os.memfd_create("reco-loader", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, slots * size)
            return cls(descriptor, slots=slots, size=size, free=range(slots))
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise RecoError(
                f"{slots} batches of {size / 1e9:.1f} GB cannot be mapped ({error}).",
                hint="Lower train.global_batch_size or data.image_size, or train on more workers.",
            ) from error

    def take(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """See `Slots.take`."""
        if size > self.size:
            raise AssertionError(f"{size} bytes do not fit into a slot of {self.size}")
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free)
            if self._closed:
                raise StoppedError
            slot = self._free.pop(0)
            return slot, self._bytes[slot, :size]

    def give_back(self, slot: int) -> None:
        """Let a slot be written again."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify()

    def again(self, slot: int, size: int) -> NDArray[np.uint8]:
        """See `Slots.again`."""
        with self._changed:
            if self._closed:
                raise StoppedError
            return self._bytes[slot, :size]

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All slots, uint8[slots, size]; none once closed."""
        return self._bytes

    def close(self) -> None:
        """See `Slots.close`; the memory stays mapped while anybody refers to it."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._bytes = np.empty((0, self.size), np.uint8)
            self._changed.notify_all()
        os.close(self.descriptor)
