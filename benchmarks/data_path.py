"""Client CPU seconds per picture: our data path, the usual one, and bare JPEG decoding, on shards from an S3 server.

    .venv/bin/python -m benchmarks.data_path path/to/shards

copies the shards into a folder, serves it by `rclone serve s3`, and measures each path in a process of its own, in
rounds that go through the paths forwards and backwards in turn. What the server spends does not count, nor do start-up
and the first batches; everything else of the client does, in whatever process. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from benchmarks.measure import spread, tree_cpu_s
from benchmarks.usual_path import batches as usual_batches
from jobs.loading.detail import Detail
from jobs.loading.process import LoaderProcess
from jobs.shards.dataset import open_dataset
from jobs.shards.order import Order
from jobs.spec import ViewsSpec
from jobs.training.feed import DeviceBatch, Feed
from jobs.views import Views
from tests.s3 import serve_rclone

SIZE, BATCH = 224, 64
WARM = 20  # batches: three passes over the 400 pictures, after which all memory has been touched
LANES = 1  # one worker of many has few of the lanes
PATHS = {
    "usual": "webdataset + Pillow, three views on the CPU",
    "ours": "ours, to uint8 on the device",
    "ours+views": "ours, three views on the CPU",
    "bare": "simplejpeg alone, into one buffer",
    "bare-new": "simplejpeg alone, a new array each",
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    if arguments.one:
        print(json.dumps(MEASURES[arguments.one](arguments.shards, arguments.pictures)))
        return
    figures: dict[str, list[float]] = {name: [] for name in PATHS}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "buckets" / "bench" / "set"
        place.mkdir(parents=True)
        for shard in sorted(Path(arguments.shards).glob("*.tar")):
            shutil.copyfile(shard, place / shard.name)
        with serve_rclone(Path(temporary) / "buckets") as server:
            environment = {**os.environ, **server.environment, "OMP_NUM_THREADS": "1"}
            for turn in range(arguments.rounds):
                for name in list(PATHS) if turn % 2 == 0 else reversed(PATHS):
                    command = [sys.executable, "-m", "benchmarks.data_path", "s3://bench/set", "--one", name]
                    command += ["--pictures", str(arguments.pictures)]
                    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                    figures[name].append(1e3 * float(json.loads(ran.stdout.splitlines()[-1])["cpu_s"]))
                    print(f"round {turn + 1}: {PATHS[name]}: {figures[name][-1]:.3f} ms", file=sys.stderr, flush=True)
    print(table(figures))
    if arguments.json:
        result = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
            "pictures": arguments.pictures,
            "cpu_ms_per_picture": figures,
        }
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def timed(batches: Iterator[Any], pictures: int, count: Callable[[Any], int]) -> dict[str, float]:
    """CPU and wall seconds per picture, once the first batches are through."""
    for _ in range(WARM):
        next(batches)
    done, cpu, start = 0, tree_cpu_s(), time.perf_counter()
    while done < pictures:
        done += count(next(batches))
    return {"cpu_s": (tree_cpu_s() - cpu) / done, "wall_s": (time.perf_counter() - start) / done}


def measure_usual(url: str, pictures: int) -> dict[str, float]:
    names = [item.key for item in _storage(url).list() if item.key.endswith(".tar")]
    batches = usual_batches([f"{url}/{name}" for name in names], image_size=SIZE, batch_size=BATCH, workers=2)
    return timed(batches, pictures, lambda views: len(views[0]))


def measure_ours(url: str, pictures: int, use: Callable[[DeviceBatch], None] = lambda _: None) -> dict[str, float]:
    with LoaderProcess(threads=1) as loader:
        dataset = loader.open(url)
        order = Order(dataset.counts, seed=0, lanes=LANES, global_batch_size=BATCH, shuffle_shards=4)
        stream = loader.stream(
            dataset,
            order,
            lanes=range(LANES),
            start=0,
            stop=10**9,
            detail=Detail.of_random_crops(SIZE, 0.2),
            replace=True,
        )

        def used() -> Iterator[int]:
            for ready in feed:
                use(ready)
                yield len(ready.batch)

        with Feed(stream, torch.device("cpu")) as feed:
            return timed(used(), pictures, int)


def measure_ours_with_views(url: str, pictures: int) -> dict[str, float]:
    views = Views(ViewsSpec(), image_size=SIZE, seed=0)

    def make(ready: DeviceBatch) -> None:
        ids, epoch = ready.batch.sample_ids, ready.batch.epoch
        views.strong(ready.pictures, epoch=epoch, sample_ids=ids, views=(0, 1))
        views.weak(ready.pictures, epoch=epoch, sample_ids=ids, view=2)

    return measure_ours(url, pictures, make)


def measure_bare(url: str, pictures: int, *, new: bool = False) -> dict[str, float]:
    dataset = open_dataset(url)
    encoded = dataset.read(range(min(len(dataset), 400)))
    buffer = None if new else np.empty(3 * dataset.max_pixels, np.uint8)

    def decoded() -> Iterator[int]:
        while True:
            for start in range(0, len(encoded), BATCH):
                for data in islice(encoded, start, start + BATCH):
                    simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
                yield len(encoded[start : start + BATCH])

    return timed(decoded(), pictures, int)


MEASURES: dict[str, Callable[[str, int], dict[str, float]]] = {
    "usual": measure_usual,
    "ours": measure_ours,
    "ours+views": measure_ours_with_views,
    "bare": measure_bare,
    "bare-new": lambda url, pictures: measure_bare(url, pictures, new=True),
}


def table(figures: dict[str, list[float]]) -> str:
    """The figures as Markdown, with the ratios that matter: of pairs from one round."""
    lines = ["| path | CPU ms per picture | usual / this | this / simplejpeg |", "|---|---|---|---|"]
    for name, words in PATHS.items():
        against_usual = [usual / this for usual, this in zip(figures["usual"], figures[name], strict=True)]
        against_bare = [this / bare for this, bare in zip(figures[name], figures["bare"], strict=True)]
        lines.append(f"| {words} | {spread(figures[name])} | {spread(against_usual)} | {spread(against_bare)} |")
    return "\n".join(lines)


def _storage(url: str) -> Any:  # noqa: ANN401
    from jobs.storage import open_storage

    return open_storage(url)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder of shards with JPEG pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=4000, help="pictures per measurement")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--one", choices=list(PATHS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
