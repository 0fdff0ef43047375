"""CIFAR-10 from an S3 server on two CPU cores: ReCo beside MoCo v2, through `reco pretrain` as a user would run it.

    .venv/bin/python -m benchmarks.cifar10 path/to/cifar10-shards

starts `rclone serve s3` with a key pair over a copy of the shards, runs `examples/cifar10-cpu.yaml` in both modes one
after the other, and writes the figures as JSON, the curves as PNG under --results. A run that is complete in --work is
not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from jobs.run_folder import Record, RunFolder
from jobs.tracking.figures import overlaid_curves
from tests.s3 import S3Server, serve_rclone

SPEC = Path("examples/cifar10-cpu.yaml")
MODES = {
    "ReCo": [],
    "MoCo v2": ["method.global_relation.weight=0", "method.local_relation.weight=0"],
}


def main() -> None:
    arguments = parse()
    work = Path(arguments.work)
    shards = work / "s3" / "datasets" / "cifar10"
    shards.mkdir(parents=True, exist_ok=True)
    for shard in sorted(Path(arguments.shards).glob("*.tar")):
        shutil.copyfile(shard, shards / shard.name)  # the index is written beside the shards: not into the user's
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, no GPU",
        "spec": str(SPEC),
        "changes": arguments.overrides,
        "modes": {},
    }
    curves: dict[str, list[dict[str, float]]] = {}
    with serve_rclone(work / "s3") as server:
        for mode in arguments.modes:
            seconds, folder = pretrained(server, mode, arguments.overrides, work)
            found = folder.result()
            assert found is not None
            records = folder.records()
            results["modes"][mode] = {"seconds": round(seconds), "steps": records[-1]["step"], **found}
            curves[mode] = [flat(record) for record in records]
            print(f"{mode}: {json.dumps(results['modes'][mode])}", flush=True)
    out = Path(arguments.results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "cifar10-cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    metrics = {"train/contrast": "contrast loss", "valid/knn": "k-NN on held-out training pictures (%)"}
    overlaid_curves(curves, metrics, out / "cifar10-cpu.png", title="CIFAR-10, two CPU cores")
    print(table(results))


def pretrained(server: S3Server, mode: str, overrides: list[str], work: Path) -> tuple[float, RunFolder]:
    """Run the spec in one mode as a user would, unless that was done before; its wall time in seconds, its folder."""
    run_id = mode.lower().replace(" ", "-")
    timed = work / f"{run_id}.json"
    folder = RunFolder(str(work / "runs"), run_id)
    if timed.exists():
        return float(json.loads(timed.read_text())["seconds"]), folder
    command = ["reco", "pretrain", str(SPEC), "--run-id", run_id, "--storage", str(work / "runs")]
    for change in [*MODES[mode], *overrides]:
        command += ["--set", change]
    environment = {
        **os.environ,
        **server.environment,
        "RECO_HOME": str(work / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    print("$", " ".join(command), flush=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    seconds = time.perf_counter() - start
    timed.write_text(json.dumps({"seconds": seconds}))
    return seconds, folder


def flat(record: Record) -> dict[str, float]:
    return {"step": record["step"], "pictures": record["pictures"], **record["metrics"]}


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| features | k-NN, test | linear, test | wall time |", "|---|---|---|---|"]
    for mode, found in results["modes"].items():
        minutes = f"{found['seconds'] // 60} min {found['seconds'] % 60} s"
        lines.append(f"| {mode} | {found['test/knn']:.1f} | {found['test/linear']:.1f} | {minutes} |")
    found = next(iter(results["modes"].values()))
    lines.append(f"| untrained, batch statistics calibrated | {found['test/knn_untrained']:.1f} | | |")
    lines.append(f"| raw pixels | {found['test/knn_raw_pixels']:.1f} | | |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder with cifar10-train-*.tar and cifar10-test-*.tar")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--work", default="build/cifar10", help="where server, runs and MLflow keep their files")
    parser.add_argument("--results", default="docs/results", help="where figures and curves go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
