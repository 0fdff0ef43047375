"""Memory for encoded blocks that is used again and again."""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

_LARGE_PAGE = 2 << 20
_KEPT = 2


class Buffers:
    """Arrays whose memory comes back here once nothing refers to them any more.

    Memory fresh from the system is zeroed page by page as it is touched, at about a fifth of what receiving the bytes
    costs. The two largest returned pieces are kept: a lane's last block of an epoch may be small, and should neither
    take the place of a large one nor make it be let go. Safe with several threads.
    """

    def __init__(self) -> None:
        self._kept: list[mmap.mmap] = []
        # Memory is given back by whichever thread drops the last reference, maybe in the middle of `take`.
        self._lock = threading.RLock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """An array uint8[size] with undefined content; its slices keep it, and so its memory, from being used again."""
        with self._lock:
            memory = min((kept for kept in self._kept if len(kept) >= size), key=len, default=None)
            if memory is not None:
                self._kept = [kept for kept in self._kept if kept is not memory]
        if memory is None:
            memory = _allocate(size + size // 8)  # blocks differ a little in size; pages nobody touches cost nothing
        array = np.frombuffer(memory, np.uint8, count=size)
        weakref.finalize(array, self._give_back, memory).atexit = False
        return array

    def _give_back(self, memory: mmap.mmap) -> None:
        with self._lock:
            self._kept = sorted([*self._kept, memory], key=len, reverse=True)[:_KEPT]


def _allocate(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, -(-max(size, 1) // _LARGE_PAGE) * _LARGE_PAGE)
    with contextlib.suppress(OSError):  # where the system has larger pages for whoever asks
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
