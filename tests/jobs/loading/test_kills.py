"""Kill -9 of trainers and loaders at random steps, on any number of ranks: the data that was seen is the same."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.shards.dataset import open_dataset
from jobs.shards.order import Order
from tests.jobs.shards.made import make_shards

COUNTS = [37, 52, 41, 33, 60]
KILLS = 10

Seen = dict[tuple[int, int], str]
"""Digest of the sample ids and pixels of each (step, lane)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "shards"
    make_shards(path, COUNTS, ragged=True)
    open_dataset(str(path))
    return path


@pytest.fixture(scope="module")
def steps(folder: Path) -> int:
    dataset = open_dataset(str(folder))
    order = Order(dataset.counts, seed=5, lanes=4, global_batch_size=16, shuffle_shards=2)
    return 2 * order.steps_per_epoch


@pytest.fixture(scope="module")
def undisturbed(folder: Path, steps: int, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    attempt = Attempt(folder, tmp_path_factory.mktemp("undisturbed"), 1, 0, steps, seconds=0.0)
    attempt.wait()
    seen = attempt.seen()
    assert len(seen) == 4 * steps
    return seen


class Attempt:
    """All ranks of a training, from one step on."""

    def __init__(
        self, folder: Path, out: Path, world_size: int, start: int, stop: int, *, seconds: float = 0.02
    ) -> None:
        self.files = [out / f"{start}-{rank}-of-{world_size}-{time.monotonic_ns()}" for rank in range(world_size)]
        self.start = start
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.loading.consumer", str(folder), str(file)]
                + [str(number) for number in (rank, world_size, start, stop, seconds)]
            )
            for rank, file in enumerate(self.files)
        ]

    def lines(self, rank: int) -> list[str]:
        file = self.files[rank]
        return file.read_text().splitlines(keepends=True) if file.exists() else []

    def seen(self) -> Seen:
        """What all ranks have seen; a line that a kill cut in the middle does not count."""
        found: Seen = {}
        for rank in range(len(self.ranks)):
            for line in self.lines(rank):
                if line.endswith("\n") and line.count(" ") == 2:
                    step, lane, digest = line.split()
                    found[int(step), int(lane)] = digest
        return found

    def reached(self) -> int:
        """The step that every rank has been through."""
        seen = self.seen()
        step = self.start
        while all((step, lane) in seen for lane in range(4)):
            step += 1
        return step

    def await_step(self, step: int) -> None:
        deadline = time.monotonic() + 60
        while self.reached() < step and any(rank.poll() is None for rank in self.ranks):
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.005)

    def kill_loader(self, rank: int) -> None:
        pid = [line for line in self.lines(rank) if line.endswith("\n") and " " not in line][-1]
        with contextlib.suppress(ProcessLookupError):  # it may be dead from an earlier kill that is not yet noticed
            os.kill(int(pid), signal.SIGKILL)

    def kill_trainers(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()

    def wait(self) -> None:
        assert [rank.wait(timeout=60) for rank in self.ranks] == [0] * len(self.ranks)


@pytest.mark.parametrize("world_sizes", [[1], [2], [4], [4, 1, 2]], ids=["1", "2", "4", "changing"])
def test_ten_kills_of_trainers_and_loaders_change_nothing_that_is_seen(
    folder: Path, steps: int, undisturbed: Seen, tmp_path: Path, world_sizes: list[int]
) -> None:
    chance = random.Random(len(world_sizes) * 10 + world_sizes[0])
    kills = sorted(chance.sample(range(1, steps - 1), KILLS))
    seen: Seen = {}
    attempts, start = 0, 0
    while start < steps:
        attempt = Attempt(folder, tmp_path, world_sizes[attempts % len(world_sizes)], start, steps)
        attempts += 1
        while kills:
            attempt.await_step(kills[0])
            kills.pop(0)
            if chance.random() < 0.4:
                attempt.kill_trainers()
                break
            attempt.kill_loader(chance.randrange(len(attempt.ranks)))
        else:
            attempt.wait()
        for place, digest in attempt.seen().items():
            assert undisturbed[place] == digest, f"step and lane {place}, attempt {attempts}"
        seen |= attempt.seen()
        # The checkpoint of a training that was killed: a step or so before the last that all ranks have been through.
        start = (
            attempt.reached()
            if not kills and attempt.reached() == steps
            else max(0, attempt.reached() - chance.randrange(2))
        )
    assert seen == undisturbed
    assert attempts > 1
