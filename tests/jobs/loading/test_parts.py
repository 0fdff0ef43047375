"""Blocks read in parts: several at once, every byte in its place, one error, and nobody who writes afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jobs.loading import parts
from jobs.loading.block import load_block
from jobs.loading.buffers import Buffers
from jobs.loading.parts import AT_ONCE
from jobs.loading.slots import StoppedError
from jobs.shards.dataset import Dataset, open_dataset
from jobs.shards.order import Order
from jobs.storage import UnreachableError
from tests.jobs.shards.made import make_shards


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    make_shards(tmp_path, [40, 25, 60])
    monkeypatch.setattr(parts, "_SIZE", 5000)
    return open_dataset(str(tmp_path))


@pytest.fixture
def helpers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(AT_ONCE - 1) as pool:
        yield pool


def make_order(dataset: Dataset) -> Order:
    return Order(dataset.counts, seed=1, lanes=1, global_batch_size=5, shuffle_shards=3)


def test_every_byte_is_in_its_place_with_and_without_helpers(dataset: Dataset, helpers: ThreadPoolExecutor) -> None:
    block = make_order(dataset).plan(0, 0).block(0)
    for pool in (None, helpers):
        samples = load_block(dataset, block, Buffers(), lambda: False, pool, AT_ONCE).samples
        assert len(samples) > 100
        for sample in samples:
            assert sample.data().tobytes() == dataset.fetch(sample.sample_id)


def test_a_block_has_several_reads_in_flight_and_no_more(
    dataset: Dataset, helpers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, lock, now, most = threading.Barrier(AT_ONCE), threading.Lock(), 0, 0
    first = iter(range(AT_ONCE))
    real = Dataset.read_shard

    def count(self: Dataset, shard: int, start: int, buffer: memoryview) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            wait = next(first, None) is not None
        if wait:
            together.wait(30)
        real(self, shard, start, buffer)
        with lock:
            now -= 1

    monkeypatch.setattr(Dataset, "read_shard", count)
    load_block(dataset, make_order(dataset).plan(0, 0).block(0), Buffers(), lambda: False, helpers, AT_ONCE)
    assert most == AT_ONCE


def test_parts_of_different_shards_alternate() -> None:
    buffers = [memoryview(bytearray(size)) for size in (parts._SIZE * 2 + 7, parts._SIZE)]
    cut = parts.divide([parts.Part(4, 100, buffers[0]), parts.Part(9, 0, buffers[1])])
    size = parts._SIZE
    assert [(part.shard, part.start, len(part.buffer)) for part in cut] == [
        (4, 100, size),
        (9, 0, size),
        (4, 100 + size, size),
        (4, 100 + 2 * size, 7),
    ]


@pytest.mark.parametrize("fails_at", [0, 1, 7])
def test_an_error_is_raised_once_nobody_writes_any_more(
    dataset: Dataset, helpers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    reads = iter(range(1000))
    buffers: list[memoryview] = []

    def fail(self: Dataset, shard: int, start: int, buffer: memoryview) -> None:
        buffers.append(buffer)
        if next(reads) == fails_at:
            raise UnreachableError("the network is gone")
        time.sleep(0.05)
        buffer[:] = bytes(len(buffer))

    monkeypatch.setattr(Dataset, "read_shard", fail)
    block = make_order(dataset).plan(0, 0).block(0)
    with pytest.raises(UnreachableError, match="the network is gone"):
        load_block(dataset, block, Buffers(), lambda: False, helpers, AT_ONCE)
    for buffer in buffers:
        buffer[:] = b"\1" * len(buffer)
    time.sleep(0.1)
    assert all((np.frombuffer(buffer, np.uint8) == 1).all() for buffer in buffers)
    assert len(buffers) <= fails_at + AT_ONCE


def test_a_stop_ends_all_that_read(dataset: Dataset, helpers: ThreadPoolExecutor) -> None:
    asked = iter([False, False, *[True] * 100])
    with pytest.raises(StoppedError):
        load_block(dataset, make_order(dataset).plan(0, 0).block(0), Buffers(), lambda: next(asked), helpers, AT_ONCE)
