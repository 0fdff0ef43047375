"""A sweep on two CPU cores: what its preview said beside what it took, and what its best values are worth.

    .venv/bin/python -m benchmarks.sweep path/to/cifar10-shards

serves the shards from an S3 server, and runs `reco sweep preview` and `reco sweep run` on
`examples/sweeps/cifar10-cpu.yaml`. Then the best configuration and the base are each trained in full with three seeds
that the sweep did not use, in turn, and judged on the test set, which the sweep never saw. Figures go to --results as
JSON. What is complete in --work is not run again. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import spread
from benchmarks.served import MACHINE, cifar10_served, timed_once
from jobs.run_folder import RunFolder

SWEEP = "examples/sweeps/cifar10-cpu.yaml"
BASE = "examples/cifar10-fifth.yaml"
MEASURED = ("test/knn", "test/linear")


def main() -> None:
    arguments = parse()
    work = Path(arguments.work)
    with cifar10_served(Path(arguments.shards), work) as environment:
        said = previewed(work / "preview.json", environment)
        took = timed_once(["reco", "sweep", "run", SWEEP, "--id", "sweep"], work / "sweep.json", environment)
        trials = json.loads(output_of(["reco", "sweep", "results", "sweep", "--json"], environment))
        best = work / "best.yaml"
        best.write_text(output_of(["reco", "sweep", "best", "sweep"], environment))
        specs = {"best": str(best), "base": BASE}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in specs}
        for seed in arguments.seeds:
            for name, spec in specs.items():
                runs[name].append(pretrained(f"{name}-{seed}", spec, seed, work, environment))
                print(f"{name}, seed {seed}: {json.dumps(runs[name][-1])}", flush=True)
    results = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": MACHINE,
        "sweep": SWEEP,
        "preview": said,
        "seconds": round(took),
        "trials": trials,
        "seeds": arguments.seeds,
        "runs": runs,
    }
    out = Path(arguments.results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweep-cifar10-cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"preview {said['wall_s']:.0f} s, took {took:.0f} s: {said['wall_s'] / took:.2f} of it")
    print(table(runs))


def previewed(path: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What the preview says, asked once."""
    if not path.exists():
        path.write_text(output_of(["reco", "sweep", "preview", SWEEP, "--json"], environment))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def pretrained(run_id: str, spec: str, seed: int, work: Path, environment: dict[str, str]) -> dict[str, float]:
    """What an encoder trained with one seed is worth on the test set (%)."""
    command = ["reco", "pretrain", spec, "--run-id", run_id, "--set", f"train.seed={seed}"]
    timed_once(command, work / f"{run_id}.json", environment)
    found = RunFolder(environment["RECO_STORAGE"], run_id).result()
    assert found is not None
    return {name: found[name] for name in MEASURED}


def output_of(command: list[str], environment: dict[str, str]) -> str:
    print("$", " ".join(command), flush=True)
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def table(runs: dict[str, list[dict[str, float]]]) -> str:
    """Mean and range over the seeds, as Markdown."""
    lines = ["| configuration | k-NN, test | linear, test |", "|---|---|---|"]
    for name, found in runs.items():
        values = [[run[metric] for run in found] for metric in MEASURED]
        cells = " | ".join(f"{statistics.mean(each):.2f}; {spread(each)}" for each in values)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder with cifar10-train-*.tar and cifar10-test-*.tar")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="none that the sweep used")
    parser.add_argument("--work", default="build/sweep", help="where server, runs and MLflow keep their files")
    parser.add_argument("--results", default="docs/results", help="where the figures go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
