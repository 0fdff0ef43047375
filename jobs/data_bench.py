"""How many pictures a second this machine can feed, stage by stage: `python -m jobs.data_bench SOURCE`."""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jobs.errors import RecoError
from jobs.loading.block import FetchedSample, load_block
from jobs.loading.buffers import Buffers
from jobs.loading.detail import Detail
from jobs.loading.process import LoaderProcess
from jobs.shards.dataset import Dataset, open_dataset
from jobs.shards.decode import decode_into
from jobs.shards.order import Order
from jobs.shards.records import FORMATS
from jobs.spec import ViewsSpec
from jobs.training.feed import Feed, slots
from jobs.training.ranks import pick_device
from jobs.views import Pictures, Views

LANES, BATCH = 8, 64


@dataclass(frozen=True)
class Stage:
    """One stage's figures.

    Attributes:
        name: Which.
        pictures_per_s: Through this stage alone, as it runs here.
        cpu_ms: CPU milliseconds of this host per picture.
        bytes_per_s: What it moves, where that says something.
    """

    name: str
    pictures_per_s: float
    cpu_ms: float
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class Bench:
    """The figures of all stages.

    Attributes:
        stages: In the order of the data path.
        threads: Decoding threads of the loader.
        device: Where views were made.
        image_size: Their side in pixels.
    """

    stages: tuple[Stage, ...]
    threads: int
    device: str
    image_size: int

    @property
    def fed(self) -> Stage:
        """What reaches the trainer: reading, decoding and handing over at once."""
        return next(stage for stage in self.stages if stage.name == "loader")

    def served(self, appetite: float) -> int:
        """How many accelerators that each take `appetite` pictures a second this host's loader can keep busy."""
        return math.floor(self.fed.pictures_per_s / appetite)

    def cores(self, appetite: float) -> float:
        """Cores of the loader that one such accelerator needs."""
        return appetite * self.fed.cpu_ms / 1e3


def bench(source: str, *, index: str | None, image_size: int, pictures: int, threads: int) -> Bench:
    """Measure every stage on about as many pictures of a data set.

    Args:
        source: Shards.
        index: Where their index is kept, if not beside them.
        image_size: Side of the views in pixels.
        pictures: How many per stage; fewer where the data set is smaller.
        threads: Decoding threads of the loader.

    Raises:
        RecoError: The shards cannot be read.
    """
    dataset = open_dataset(source, index=index)
    batch = max(LANES, min(BATCH, len(dataset) // LANES * LANES))
    order = Order(dataset.counts, seed=0, lanes=LANES, global_batch_size=batch, shuffle_shards=4)
    detail = Detail.of_random_crops(image_size, ViewsSpec().crop_scale[0])
    device = pick_device(0)
    read, samples = _read(dataset, order, pictures)
    stages = (
        read,
        _decode(samples, detail),
        _load(source, index, order, detail, pictures, threads, device),
        _views(samples, detail, image_size, device),
    )
    return Bench(stages, threads, device.type, image_size)


def _read(dataset: Dataset, order: Order, pictures: int) -> tuple[Stage, list[FetchedSample]]:
    samples: list[FetchedSample] = []
    buffers = Buffers()
    load_block(dataset, order.plan(0, 0).block(0), buffers, lambda: False)  # connections, and the index of its shards
    with _Clock() as clock:
        for lane in range(order.lanes):
            plan = order.plan(0, lane)
            for number in range(len(plan)):
                if len(samples) < pictures:
                    samples += load_block(dataset, plan.block(number), buffers, lambda: False).samples
    size = sum(sample.length for sample in samples)
    return clock.stage("read", len(samples), size), samples[:pictures]


def _decode(samples: list[FetchedSample], detail: Detail) -> Stage:
    factors, sizes = detail.scaled(np.array([(sample.height, sample.width) for sample in samples], dtype=np.int64))
    pixels = np.empty(int(sizes.prod(axis=1).max()) * 3, np.uint8)
    with _Clock() as clock:
        for sample, factor, (height, width) in zip(samples, factors.tolist(), sizes.tolist(), strict=True):
            out = pixels[: 3 * height * width].reshape(height, width, 3)
            decode_into(sample.data(), FORMATS[sample.format], out, factor=factor)
    return clock.stage("decode", len(samples), sum(sample.length for sample in samples))


def _load(
    source: str, index: str | None, order: Order, detail: Detail, pictures: int, threads: int, device: torch.device
) -> Stage:
    with LoaderProcess(threads=threads) as loader:
        dataset = loader.open(source, index=index)
        stream = loader.stream(
            dataset,
            order,
            lanes=range(order.lanes),
            start=0,
            stop=10**9,
            detail=detail,
            replace=True,
            slots=slots(device),
        )
        with Feed(stream, device) as feed:
            batches: Iterator[object] = iter(feed)
            for _ in range(slots(device)):  # its memory is touched for the first time
                next(batches)
            before, done = loader.cpu_s, 0
            with _Clock() as clock:
                while done < pictures:
                    next(batches)
                    done += order.lanes * order.lane_batch_size
            return clock.stage("loader", done, cpu_s=loader.cpu_s - before)


def _views(samples: list[FetchedSample], detail: Detail, image_size: int, device: torch.device) -> Stage:
    views = Views(ViewsSpec(), image_size=image_size, seed=0)
    some = samples[: 4 * BATCH]
    packed = [_pack(some[start : start + BATCH], detail).to(device) for start in range(0, len(some), BATCH)]
    with _Clock() as clock:
        for pictures in packed:
            ids = np.arange(len(pictures))
            views.strong(pictures, epoch=0, sample_ids=ids, views=(0, 1))
            views.weak(pictures, epoch=0, sample_ids=ids, view=2)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return clock.stage("views", len(some))


def _pack(samples: list[FetchedSample], detail: Detail) -> Pictures:
    factors, sizes = detail.scaled(np.array([(sample.height, sample.width) for sample in samples], dtype=np.int64))
    decoded = []
    for sample, factor, (height, width) in zip(samples, factors.tolist(), sizes.tolist(), strict=True):
        decoded.append(np.empty((height, width, 3), np.uint8))
        decode_into(sample.data(), FORMATS[sample.format], decoded[-1], factor=factor)
    return Pictures.pack(decoded)


class _Clock:
    """Wall time and this process's CPU time of what runs inside."""

    def __enter__(self) -> _Clock:
        self._wall, self._cpu = time.perf_counter(), _own_cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall, self._cpu = time.perf_counter() - self._wall, _own_cpu_s() - self._cpu

    def stage(self, name: str, pictures: int, size: int | None = None, *, cpu_s: float = 0.0) -> Stage:
        moved = None if size is None else size / self._wall
        return Stage(name, pictures / self._wall, 1e3 * (self._cpu + cpu_s) / pictures, moved)


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def show(result: Bench, appetite: float) -> None:
    """Print the figures and what follows from them."""
    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for column in ("pictures/s", "CPU ms/picture", "pictures/s/core", "MB/s"):
        table.add_column(column, justify="right")
    words = {
        "read": "read, one reader",
        "decode": "decode, one thread",
        "loader": f"loader, {result.threads} thread{'s' if result.threads > 1 else ''}",
        "views": f"3 views, {result.image_size} px, {result.device}",
    }
    for stage in result.stages:
        moved = "" if stage.bytes_per_s is None else f"{stage.bytes_per_s / 1e6:,.0f}"
        per_core = 1e3 / stage.cpu_ms if stage.cpu_ms else math.inf
        table.add_row(
            words[stage.name], f"{stage.pictures_per_s:,.0f}", f"{stage.cpu_ms:.3f}", f"{per_core:,.0f}", moved
        )
    console.print(table)
    served = result.served(appetite)
    feeds = f"{served}" if served else f"{result.fed.pictures_per_s / appetite:.2f}"
    console.print(
        f"An accelerator that takes {appetite:,.0f} pictures/s needs {result.cores(appetite):.1f} cores for its "
        f"loader; as measured, this host feeds {feeds} of them."
    )


def main() -> int:
    """Measure and print; returns the exit code."""
    given = _parse()
    threads = given.threads or max(1, (os.cpu_count() or 2) - 1)
    torch.set_num_threads(threads)
    try:
        result = bench(
            given.source, index=given.index, image_size=given.image_size, pictures=given.pictures, threads=threads
        )
    except RecoError as error:
        print(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if given.json:
        print(json.dumps({**asdict(result), "accelerators_served": result.served(given.appetite)}, indent=1))  # noqa: T201
    else:
        show(result, given.appetite)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.data_bench", description=__doc__)
    parser.add_argument("source", help="folder, prefix, shard or brace pattern")
    parser.add_argument("--index", help="where its index is kept, if not beside it")
    parser.add_argument("--image-size", type=int, default=224, help="side of the views in pixels")
    parser.add_argument("--pictures", type=int, default=1000, help="pictures per stage")
    parser.add_argument("--threads", type=int, help="decoding threads of the loader; all cores but one if unset")
    parser.add_argument("--appetite", type=float, default=2500.0, help="pictures/s that one accelerator takes")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
