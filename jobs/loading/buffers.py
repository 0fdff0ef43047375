"""Memory for encoded blocks that is used again and again."""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPARE = 1.5
"""Memory is used again for no less than its size divided by this."""

_LARGE_PAGE = 2 << 20
_LARGE = 16 * _LARGE_PAGE  # what is smaller would lose too much in its last page


@dataclass(eq=False)
class _Piece:
    """Memory, and how much of it was ever written to: the rest costs nothing."""

    memory: mmap.mmap
    touched: int = 0


class Buffers:
    """Arrays whose memory comes back here once nothing refers to them any more.

    Memory fresh from the system is zeroed page by page as it is touched, at about a fifth of what receiving the bytes
    costs. So what comes back is kept, but never so much that more is held than was once in use at the same time: then
    the smallest goes. Safe with several threads.
    """

    def __init__(self) -> None:
        self._kept: list[_Piece] = []
        self._used = 0
        self._most = 0
        # Memory is given back by whichever thread drops the last reference, maybe in the middle of `take`.
        self._lock = threading.RLock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """An array uint8[size] with undefined content; its slices keep it, and so its memory, from being used again."""
        with self._lock:
            fitting = (kept for kept in self._kept if size <= len(kept.memory) <= SPARE * size + mmap.PAGESIZE)
            piece = min(fitting, key=lambda kept: len(kept.memory), default=None)
            if piece is None:
                # Blocks differ a little in size.
                piece = _Piece(_allocate(size + size // 8))
            else:
                self._kept.remove(piece)
            piece.touched = max(piece.touched, size)
            self._used += piece.touched
            self._most = max(self._most, self._used)
            self._kept.sort(key=lambda kept: kept.touched, reverse=True)
            while self._kept and self._used + sum(kept.touched for kept in self._kept) > self._most:
                self._kept.pop()
        array = np.frombuffer(piece.memory, np.uint8, count=size)
        weakref.finalize(array, self._give_back, piece).atexit = False
        return array

    def _give_back(self, piece: _Piece) -> None:
        with self._lock:
            self._used -= piece.touched
            self._kept.append(piece)


def _allocate(size: int) -> mmap.mmap:
    page = mmap.PAGESIZE if size < _LARGE else _LARGE_PAGE
    memory = mmap.mmap(-1, -(-max(size, 1) // page) * page)
    if page == _LARGE_PAGE:
        with contextlib.suppress(OSError):  # where the system has larger pages for whoever asks
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
