"""Memory of the loader that a GPU may read by itself, so that copies need neither the CPU nor a wait."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_PAGE = 4096


def _register(address: int, size: int) -> int:
    return int(torch.cuda.cudart().cudaHostRegister(address, size, 0))  # type: ignore[no-untyped-call]


def _unregister(address: int) -> int:
    return int(torch.cuda.cudart().cudaHostUnregister(address))  # type: ignore[no-untyped-call]


class Pinned:
    """Pins as much of each slot as its batches have needed.

    A slot has room for the largest pictures there are. Pinning all of it would take that much memory from the machine
    whether such pictures come or not, so only what a batch fills is pinned, and a quarter more, and again more when a
    larger one comes.

    Args:
        room: Bytes of a slot, whole pages.
        register: Pins so many bytes at an address; returns CUDA's error code.
        unregister: Lets the bytes at an address go.
    """

    def __init__(
        self,
        room: int,
        *,
        register: Callable[[int, int], int] = _register,
        unregister: Callable[[int], int] = _unregister,
    ) -> None:
        self._room, self._register, self._unregister = room, register, unregister
        self._sizes: dict[int, int] = {}
        self._refused = False

    def cover(self, pixels: NDArray[np.uint8]) -> None:
        """Have the bytes of a batch, which begin where its slot does, pinned; no copy from that slot is under way."""
        address, needed = pixels.ctypes.data, pixels.nbytes
        if self._refused or self._sizes.get(address, 0) >= needed:
            return
        if self._sizes.pop(address, 0):
            self._unregister(address)
        size = min(self._room, -(-needed * 5 // (4 * _PAGE)) * _PAGE)
        error = self._register(address, size)
        if error == 0:
            self._sizes[address] = size
            return
        # Copies still work, through a buffer of the driver's; a container may forbid locked memory.
        self._refused = True
        _log.warning(
            "the loader's memory cannot be pinned (CUDA error %d): copies will not be asynchronous; "
            "a container may need a higher limit of locked memory (ulimit -l)",
            error,
        )

    def close(self) -> None:
        """Let all of it go; no copy is under way any more."""
        for address in self._sizes:
            self._unregister(address)
        self._sizes.clear()
