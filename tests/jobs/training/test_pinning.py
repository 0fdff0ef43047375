"""What is pinned of the loader's memory, with CUDA's two calls stood in for; the copies themselves need a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.training.pinning import Pinned

PAGE = 4096


class Driver:
    """Refuses what CUDA refuses: pages that are pinned already, and more than it is allowed."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.pinned: dict[int, int] = {}
        self.calls = 0
        self._limit = limit

    def register(self, address: int, size: int) -> int:
        self.calls += 1
        if any(address < other + length and other < address + size for other, length in self.pinned.items()):
            return 712
        if size > self._limit:
            return 2
        self.pinned[address] = size
        return 0

    def unregister(self, address: int) -> int:
        del self.pinned[address]
        return 0


def test_only_what_batches_need_is_pinned_and_once() -> None:
    driver, memory = Driver(), np.zeros((3, 100 * PAGE), np.uint8)
    pinned = Pinned(100 * PAGE, register=driver.register, unregister=driver.unregister)
    for slot in (0, 1, 0, 1, 0):
        pinned.cover(memory[slot, : 8 * PAGE - slot])
    assert sorted(driver.pinned.values()) == [10 * PAGE, 10 * PAGE]
    assert driver.calls == 2
    pinned.cover(memory[0, : 10 * PAGE])  # fits into what is pinned
    assert driver.calls == 2
    pinned.cover(memory[0, : 90 * PAGE])
    assert driver.pinned[memory[0].ctypes.data] == 100 * PAGE  # never beyond the slot
    pinned.close()
    assert driver.pinned == {}


def test_a_refusal_is_said_once_and_copies_go_on(caplog: pytest.LogCaptureFixture) -> None:
    driver, memory = Driver(limit=5 * PAGE), np.zeros((2, 100 * PAGE), np.uint8)
    pinned = Pinned(100 * PAGE, register=driver.register, unregister=driver.unregister)
    pinned.cover(memory[0, : 2 * PAGE])
    for slot in (0, 1, 0):
        pinned.cover(memory[slot, : 50 * PAGE])
    assert len(caplog.records) == 1
    assert "cannot be pinned (CUDA error 2)" in caplog.text
    pinned.close()
    assert driver.pinned == {}
