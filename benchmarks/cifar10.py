"""CIFAR-10 from an S3 server on two CPU cores: ReCo beside MoCo v2, through `reco pretrain` as a user would run it.

    .venv/bin/python -m benchmarks.cifar10 path/to/cifar10-shards

starts `rclone serve s3` with a key pair over a copy of the shards, runs `examples/cifar10-cpu.yaml` in both modes one
after the other, and writes the figures as JSON, the curves as PNG under --results. A run that is complete in --work is
not run again.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.served import MACHINE, cifar10_served, timed_once
from jobs.run_folder import Record, RunFolder
from jobs.tracking.figures import overlaid_curves

SPEC = Path("examples/cifar10-cpu.yaml")
MODES = {
    "ReCo": [],
    "MoCo v2": ["method.global_relation.weight=0", "method.local_relation.weight=0"],
}


def main() -> None:
    arguments = parse()
    work = Path(arguments.work)
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": MACHINE,
        "spec": str(SPEC),
        "changes": arguments.overrides,
        "modes": {},
    }
    curves: dict[str, list[dict[str, float]]] = {}
    with cifar10_served(Path(arguments.shards), work) as environment:
        for mode in arguments.modes:
            seconds, folder = pretrained(environment, mode, arguments.overrides, work)
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


def pretrained(environment: dict[str, str], mode: str, overrides: list[str], work: Path) -> tuple[float, RunFolder]:
    """Run the spec in one mode as a user would, unless that was done before; its wall time in seconds, its folder."""
    run_id = mode.lower().replace(" ", "-")
    command = ["reco", "pretrain", str(SPEC), "--run-id", run_id]
    for change in [*MODES[mode], *overrides]:
        command += ["--set", change]
    seconds = timed_once(command, work / f"{run_id}.json", environment)
    return seconds, RunFolder(environment["RECO_STORAGE"], run_id)


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
