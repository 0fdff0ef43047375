"""What a loader takes stays below what was stated in advance, and is given back."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.loading import memory
from jobs.loading.detail import Detail
from jobs.loading.memory import Reading, most_bytes
from jobs.loading.process import LoaderProcess
from jobs.shards.order import Order
from tests.jobs.shards.made import tar_bytes

SIDE = 300  # of pictures that are stored as they are: 270 kB each, and scaled or not, 270 kB decoded
DETAIL = Detail.of_random_crops(200, 0.2)
SLACK = 40_000_000  # of a process beyond what it takes before the first stream: receiving, threads, its own noise


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], str]:
    """Makes a folder of so many shards of so many pictures each."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
        file, "PNG", compress_level=0
    )

    def make(count: int, pictures: int) -> str:
        folder = tmp_path_factory.mktemp("shards")
        for shard in range(count):
            members = [(f"{shard:03d}{number:03d}.png", file.getvalue()) for number in range(pictures)]
            (folder / f"{shard:03d}.tar").write_bytes(tar_bytes(members))
        return str(folder)

    return make


def status(loader: LoaderProcess, field: str) -> int:
    return 1024 * int(Path(f"/proc/{loader.pid}/status").read_text().partition(f"{field}:")[2].split()[0])


def forget_peak(loader: LoaderProcess) -> int:
    """Let the peak count from now on; returns what the process takes."""
    Path(f"/proc/{loader.pid}/clear_refs").write_text("5")
    return status(loader, "VmRSS")


def stated(training: Reading, *probes: Reading) -> int:
    return most_bytes(training, probes, threads=1) - memory._PROCESS


@pytest.mark.parametrize(
    ("count", "pictures", "lanes", "batch", "block_shards"),
    [
        (60, 4, 1, 128, 1),
        (60, 4, 4, 128, 2),
        (240, 1, 2, 96, 1),
        (5, 48, 1, 16, 1),
        (5, 48, 4, 64, 2),
        (1, 240, 1, 32, 1),
        (3, 20, 1, 60, 1),
        (10, 24, 8, 64, 4),
    ],
)
def test_the_bound_on_memory_holds_for_any_shape(
    shards: Callable[[int, int], str], count: int, pictures: int, lanes: int, batch: int, block_shards: int
) -> None:
    with LoaderProcess() as loader:
        opened = loader.open(shards(count, pictures))
        before = forget_peak(loader)
        order = Order(opened.counts, seed=0, lanes=lanes, global_batch_size=batch, shuffle_shards=block_shards)
        stream = loader.stream(opened, order, lanes=range(lanes), start=0, stop=12, detail=DETAIL)
        with contextlib.closing(stream):
            for _ in stream:
                time.sleep(0.05)  # all that may be ahead is
        taken = status(loader, "VmHWM") - before
    reading = Reading(
        opened, DETAIL, lanes=lanes, batch=batch, steps=order.steps_per_epoch, block_shards=block_shards, slots=3
    )
    assert taken < stated(reading) + SLACK


def test_the_bound_counts_the_probes_beside_the_training(shards: Callable[[int, int], str]) -> None:
    with LoaderProcess() as loader:
        small, large = loader.open(shards(4, 8)), loader.open(shards(12, 20))
        before = forget_peak(loader)
        order = Order(small.counts, seed=0, lanes=2, global_batch_size=8, shuffle_shards=1)
        stream = loader.stream(small, order, lanes=range(2), start=0, stop=1000, detail=DETAIL)
        stream.take()
        for _ in range(3):
            with contextlib.closing(loader.read(large, range(240), batch_size=100, detail=DETAIL)) as probe:
                for _ in probe:
                    time.sleep(0.05)
        taken = status(loader, "VmHWM") - before
        training = Reading(small, DETAIL, lanes=2, batch=8, steps=order.steps_per_epoch, block_shards=1, slots=3)
        probing = Reading.in_order(large, DETAIL, batch=100, slots=3)
        assert stated(training) + SLACK < taken < stated(training, probing) + SLACK


@pytest.mark.parametrize("batches", [1, 2, 100])
def test_a_stream_that_is_closed_gives_its_memory_back_at_once(shards: Callable[[int, int], str], batches: int) -> None:
    with LoaderProcess() as loader:
        opened = loader.open(shards(5, 48))
        before = forget_peak(loader)
        stream = loader.read(opened, range(240), batch_size=40, detail=DETAIL)
        taken = [batch.step for _, batch in zip(range(batches), stream, strict=False)]
        assert taken[-1] == min(batches, 6) - 1
        assert status(loader, "RssShmem") > 10_000_000
        stream.close()
        deadline = time.monotonic() + 5
        while status(loader, "RssShmem") > 1_000_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert status(loader, "RssShmem") < 1_000_000
        assert status(loader, "VmRSS") < before + SLACK
