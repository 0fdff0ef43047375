"""What a checkpoint costs a run: how long training is held up, and the CPU that storing it takes beside training.

    python -m benchmarks.saving --encoder resnet50 --queue-size 65536 --rounds 7

The state is that of a run: both encoders, both queues, SGD's momentum. Each round makes it once in each of three ways:

- `in the loop`: serialise, hash, write and read back, then the manifest, before training goes on;
- `folder`: what a run does, `jobs.checkpoints.saver` to a folder on this machine's disk;
- `s3`: the same to an S3 server (`rclone serve s3`) on this machine.

Held up is what training waits for, by the wall clock. Storing is the CPU of the saver's process, the server's not
included: it runs beside training, and counts only where a machine has no core to spare. The table also says what both
together are of the default interval of five minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import spread, tree_cpu_s
from jobs.checkpoints.publish import Draft, publish
from jobs.checkpoints.saver import Saver
from jobs.reco import ReCoConfig
from jobs.run_folder import RunFolder
from jobs.spec.models import CheckpointSpec, ViewsSpec
from jobs.training.learner import Learner
from jobs.training.ranks import Ranks
from jobs.views import Pictures, Views
from tests.s3 import serve_rclone

WAYS = ("in the loop", "folder", "s3")
INTERVAL_S = CheckpointSpec().seconds or 0


def state_of_a_run(config: ReCoConfig) -> dict[str, Any]:
    """After one step, so that the optimizer has its momentum."""
    side = 32
    learner = Learner(
        config,
        Views(ViewsSpec(), image_size=side, seed=0),
        ranks=Ranks(0, 1, torch.device("cpu")),
        momentum=0.9,
        weight_decay=1e-4,
        bf16=True,
    )
    rng = np.random.default_rng(0)
    pictures = Pictures.pack(list(rng.integers(0, 256, (8, side, side, 3), dtype=np.uint8)))
    learner.learn(pictures, epoch=0, sample_ids=np.arange(8), step=0, learning_rate=0.03, passed=lambda _: None)
    return learner.state() | {"step": 1}


def in_the_loop(state: dict[str, Any], folder: RunFolder, step: int) -> None:
    descriptor = os.memfd_create("state")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        torch.save(state, file)
    publish(Draft(folder, step, "spec", "data"), descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def folders(work: Path) -> Iterator[dict[str, RunFolder]]:
    """One run's folder for each way."""
    buckets = work / "buckets"
    (buckets / "runs").mkdir(parents=True)
    with serve_rclone(buckets) as server:
        os.environ.update(server.environment)
        yield {
            "in the loop": RunFolder(str(work), "in-the-loop"),
            "folder": RunFolder(str(work), "folder"),
            "s3": RunFolder("s3://runs", "s3"),
        }


def measure(state: dict[str, Any], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds held up, and CPU seconds of storing, by way and round; the first round is not counted."""
    figures: dict[str, dict[str, list[float]]] = {way: {"held_up_s": [], "storing_cpu_s": []} for way in WAYS}
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reco-saving-", dir="/var/tmp")))
        made = stack.enter_context(folders(work))
        savers = {
            way: stack.enter_context(Saver(made[way], keep=2, spec_hash="spec", dataset_hash="data"))
            for way in WAYS[1:]
        }
        for step in range(1, rounds + 2):
            for way in WAYS if step % 2 else WAYS[::-1]:
                before = time.perf_counter()
                if way in savers:
                    saver = savers[way]
                    assert saver.pid is not None
                    cpu_before = tree_cpu_s(saver.pid)
                    before = time.perf_counter()
                    saver.save(state, step=step, records=[])
                    held_up = time.perf_counter() - before
                    saver.finish()
                    storing = tree_cpu_s(saver.pid) - cpu_before
                else:
                    in_the_loop(state, made[way], step)
                    held_up, storing = time.perf_counter() - before, 0.0
                if step > 1:
                    figures[way]["held_up_s"].append(held_up)
                    figures[way]["storing_cpu_s"].append(storing)
                print(f"{way}: held up for {1e3 * held_up:.0f} ms", file=sys.stderr, flush=True)
    return figures


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """Median and range of the rounds as Markdown."""
    lines = [
        f"| way | held up, ms | in the loop / this | storing, CPU-s | both, of {INTERVAL_S} s |",
        "|---|---|---|---|---|",
    ]
    slow = figures[WAYS[0]]["held_up_s"]
    for way in WAYS:
        held_up, storing = figures[way]["held_up_s"], figures[way]["storing_cpu_s"]
        ratio = spread([a / b for a, b in zip(slow, held_up, strict=True)])
        both = spread([100 * (a + b) / INTERVAL_S for a, b in zip(held_up, storing, strict=True)], 2)
        lines.append(f"| {way} | {spread([1e3 * s for s in held_up])} | {ratio} | {spread(storing)} | {both} % |")
    return "\n".join(lines)


def main() -> None:
    arguments = parse()
    config = ReCoConfig(encoder=arguments.encoder, queue_size=arguments.queue_size, groups=1)
    state = state_of_a_run(config)
    size = sum(tensor.nbytes for tensor in state["model"].values()) + sum(
        slots["momentum_buffer"].nbytes for slots in state["optimizer"]["state"].values()
    )
    figures = measure(state, arguments.rounds)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; {arguments.encoder}, two queues of "
        f"{arguments.queue_size}: {size / 1e6:.0f} MB. Median (range) of {arguments.rounds} rounds.\n"
    )
    print(table(figures))
    if arguments.json:
        found = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "encoder": arguments.encoder,
            "queue_size": arguments.queue_size,
            "bytes": size,
            "interval_s": INTERVAL_S,
            "ways": figures,
        }
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--queue-size", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
