"""How long it takes to compare 500 runs, against a request for each of them.

    .venv/bin/python -m benchmarks.compare --json compare.json

fills a local MLflow server (SQLite) with runs of 100 configurations and five seeds, each with the params, tags and
metrics that a run of `examples/cifar10-fifth.yaml` has. Then it is measured: the comparison in a process that has
MLflow loaded, the whole of `reco runs compare` from its start to its last line, and what a request for each run would
take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from mlflow.entities import Metric, Param

from benchmarks.measure import spread, tree_cpu_s
from jobs.spec import load_spec
from jobs.spec.models import OUTSIDE_THE_HASH
from jobs.tracking.client import client
from jobs.tracking.compared_runs import EXPERIMENT, find_runs, with_best
from jobs.tracking.comparison import compare
from jobs.tracking.comparison_report import as_rows
from jobs.tracking.runs import flattened
from jobs.tracking.server import stop_server, tracking_uri

SPEC = Path("examples/cifar10-fifth.yaml")
CONFIGURATIONS, SEEDS, POINTS = 100, 5, 10
TAGS = {
    "dataset_hash": "d1ce",
    "code": "0123456789ab",
    "host": "host-1",
    "pid": 4711,
    "began": "2026-11-25T09:00:00+00:00",
    "workers": 2,
    "device": "cpu x86_64",
    "torch": "2.13.0",
    "cuda": "none",
    "cudnn": "none",
    "precision": "fp32",
    "matmul_precision": "highest",
    "tf32_matmul": False,
    "tf32_convolution": True,
    "cudnn_benchmark": False,
    "threads": 1,
}
ONCE = ("test/knn", "test/linear", "test/rank_me", "test/knn_untrained", "test/knn_raw_pixels", "k")
OFTEN = (
    *("train/loss", "train/contrast", "train/global_relation", "train/local_relation", "valid/knn", "valid/rank_me"),
    *("lr", "pictures_seen", "train/loss_by_pictures", "time/pictures_per_s", "time/data_wait", "time/saving"),
    *(f"time/phase_{number}" for number in range(6)),
    *(f"health/measure_{number}" for number in range(12)),
)


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="reco-compare-") as folder:
        home = Path(folder)
        uri = tracking_uri(home)
        try:
            fill(uri, arguments.configurations)
            figures = measured(uri, home, arguments.rounds)
        finally:
            stop_server(home)
    runs = arguments.configurations * SEEDS
    print(f"| {runs} runs | seconds | of them CPU, both sides |\n|---|---|---|")
    for name, seconds in figures.items():
        print(f"| {name} | {spread(seconds['wall'])} | {spread(seconds['cpu'])} |")
    if arguments.json:
        found = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "runs": runs, "seconds": figures}
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def fill(uri: str, configurations: int) -> None:
    """Make the runs: those of one configuration lie closer to each other than to others."""
    random, api = np.random.default_rng(0), client(uri)
    experiment = api.create_experiment(EXPERIMENT)
    for number in range(configurations):
        worth = 40 + 5 * random.standard_normal()
        change = f"method.temperature={0.05 + 0.003 * number:.4f}"
        for seed in range(SEEDS):
            spec = load_spec(SPEC, [change, f"train.seed={seed}"])
            tags = {"run_id": f"bench-{number:03d}-{seed}", "spec_hash": spec.hash, **TAGS}
            params = flattened(spec.model_dump(mode="json", exclude=OUTSIDE_THE_HASH))
            points = [
                Metric(name, worth + random.standard_normal(), step, step)
                for name in (*OFTEN, *ONCE)
                for step in range(POINTS if name in OFTEN else 1)
            ]
            run = api.create_run(experiment, tags={f"reco.{name}": str(value) for name, value in tags.items()})
            api.log_batch(run.info.run_id, metrics=points, params=[Param(*each) for each in params.items()])
            api.update_run(run.info.run_id, status="FINISHED")
        if number % 10 == 9:
            print(f"{(number + 1) * SEEDS} runs made", file=sys.stderr, flush=True)


def measured(uri: str, home: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each way, and CPU seconds of both sides; in turn, so that a disturbance meets all of them."""
    found = find_runs(uri, pattern="bench-*").runs  # the server's first answer is slower
    ids, of_mlflow = [run.label for run in found], [run.tracked.mlflow_run_id for run in found]
    command = [sys.executable, "-m", "service.cli.main", "runs", "compare"]
    environment = os.environ | {"RECO_HOME": str(home), "MLFLOW_TRACKING_URI": uri}

    def in_process(**selection: str) -> None:
        as_rows(compare(with_best(uri, find_runs(uri, **selection).runs)))

    def by_command(*selection: str) -> None:
        subprocess.run([*command, *selection], check=True, stdout=subprocess.DEVNULL, env=environment)

    ways: dict[str, Callable[[], object]] = {
        "compared, in a process that has MLflow loaded": lambda: in_process(pattern="bench-*"),
        "`reco runs compare --name 'bench-*'`, from start to end": lambda: by_command("--name", "bench-*"),
        "the same with each run named": lambda: by_command(*ids),
        "a request for each run, instead of all of that": lambda: [client(uri).get_run(each) for each in of_mlflow],
    }
    figures: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in ways}
    for number in range(rounds):
        for name, way in ways.items() if number % 2 == 0 else reversed(ways.items()):
            start, cpu = time.perf_counter(), tree_cpu_s()
            way()
            figures[name]["wall"].append(time.perf_counter() - start)
            figures[name]["cpu"].append(tree_cpu_s() - cpu)
    return figures


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=CONFIGURATIONS, help=f"of {SEEDS} seeds each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
