"""A lane's blocks: read over as many connections as its consumer needs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from jobs.loading import parts
from jobs.loading.pipeline import Pipeline
from jobs.shards.dataset import Dataset, open_dataset
from jobs.shards.order import Order
from tests.jobs.shards.made import make_shards


def test_a_lane_reads_over_several_connections_where_it_would_starve_and_over_one_where_it_would_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path, [120] * 20)
    dataset = open_dataset(str(tmp_path))
    monkeypatch.setattr(parts, "_SIZE", 20_000)  # a dozen in a block
    real, lock, now, most = Dataset.read_shard, threading.Lock(), 0, [0]

    def slow(self: Dataset, shard: int, start: int, buffer: memoryview) -> None:
        nonlocal now
        with lock:
            now += 1
            most[-1] = max(most[-1], now)
        time.sleep(0.01)
        real(self, shard, start, buffer)
        with lock:
            now -= 1

    monkeypatch.setattr(Dataset, "read_shard", slow)
    order = Order(dataset.counts, seed=3, lanes=1, global_batch_size=40, shuffle_shards=1)
    for pause, wanted in ((0.0, 4), (0.15, 1)):
        most = [0]
        with Pipeline(dataset, order, lanes=range(1), start=0, stop=54, threads=1) as pipeline:
            for _ in pipeline:
                time.sleep(pause)
                most.append(0)
        assert max(most) == 4
        assert max(most[-15:-5]) == wanted
