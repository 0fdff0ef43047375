"""What benchmarks of whole commands share: CIFAR-10 behind an S3 server with keys, and commands run once and timed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.s3 import serve_rclone

MACHINE = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, no GPU"


@contextlib.contextmanager
def cifar10_served(shards: Path, work: Path) -> Iterator[dict[str, str]]:
    """Serve a copy of the shards under s3://datasets/cifar10; the environment in which `reco` uses it.

    Args:
        shards: Folder with cifar10-train-*.tar and cifar10-test-*.tar; it is only read.
        work: Where server, runs and MLflow keep their files.
    """
    bucket = work / "s3" / "datasets" / "cifar10"
    bucket.mkdir(parents=True, exist_ok=True)
    for shard in sorted(shards.glob("*.tar")):
        shutil.copyfile(shard, bucket / shard.name)  # the index is written beside the shards: not into the user's
    with serve_rclone(work / "s3") as server:
        yield {
            **os.environ,
            **server.environment,
            "RECO_HOME": str(work / "home"),
            "RECO_STORAGE": str(work / "runs"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }


def timed_once(command: list[str], done: Path, environment: dict[str, str]) -> float:
    """Wall seconds of a command, which is not run again where `done` tells them already."""
    if done.exists():
        return float(json.loads(done.read_text())["seconds"])
    print("$", " ".join(command), flush=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    seconds = time.perf_counter() - start
    done.write_text(json.dumps({"seconds": seconds}))
    return seconds
