"""Memory of blocks that is used again, and never while somebody still looks at it."""

from __future__ import annotations

import numpy as np

from jobs.loading.buffers import Buffers


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_comes_back_once_the_last_slice_is_gone() -> None:
    buffers = Buffers()
    first = buffers.take(5 << 20)
    first[:] = 1
    piece = first[100:200]
    where = address(first)
    del first
    second = buffers.take(4 << 20)
    second[:] = 2
    assert address(second) != where
    assert (piece == 1).all()
    del piece
    assert address(buffers.take(5 << 20)) == where


def test_a_block_that_does_not_fit_gets_memory_of_its_own() -> None:
    buffers = Buffers()
    small = buffers.take(1 << 20)
    del small
    large = buffers.take(9 << 20)
    large[:] = 7
    assert len(large) == 9 << 20


def test_a_small_block_leaves_the_memory_of_large_ones_in_place() -> None:
    buffers = Buffers()
    arrays = [buffers.take(size << 20) for size in (20, 1, 20, 1)]
    large = {address(arrays[0]), address(arrays[2])}
    arrays.clear()
    small = buffers.take(2 << 20)
    again = [buffers.take(20 << 20) for _ in range(2)]
    assert {address(array) for array in again} == large
    assert len(small) == 2 << 20


def test_no_more_is_held_than_was_in_use_at_one_time() -> None:
    buffers = Buffers()
    for round_ in range(3):
        for size in (8, 3, 5, 1, 9):
            arrays = [buffers.take(size << 20) for _ in range(2)]
            arrays.clear()
            most = 8 if round_ == 0 and size < 9 else 9
            assert buffers._used == 0
            assert sum(kept.touched for kept in buffers._kept) <= 2 * most << 20


def test_an_empty_array_is_possible() -> None:
    assert len(Buffers().take(0)) == 0
