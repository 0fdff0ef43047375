"""What surrounds the training loop costs: the bare loop, then with health, with tracking, and as a whole job on Ray.

    python -m benchmarks.overhead run.yaml --set data.train=SHARDS --rounds 5

Each layer is a process of its own with one worker and one compute thread, and adds to the one before:

- `loop`: pictures, views, steps; nothing is averaged, measured or written.
- `health`: what `python -m jobs.training` does: metrics, label-free health, the live record, the run's folder.
- `tracking`: every metric to a local MLflow server too.
- `ray`: `python -m jobs.pretrain`: Ray Train places the worker, the supervisor watches it. The part of its time that
  it waits for pictures, as its own metrics say, is stated too.

Rounds go through the layers forwards and backwards in turn. A step's time is the time between the first logging step
after the warm-up and the last, divided by the steps between; ratios are of the two layers of one round. Saving is left
out (`benchmarks.saving` measures it): no checkpoint falls due but the one at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import spread
from jobs.training.recorder import Recorder

LAYERS = ("loop", "health", "tracking", "ray")
WARM_STEPS = 10
FIXED = (
    "scale.workers=1",
    "scale.gpus_per_worker=0",
    "scale.cpus_per_worker=1",
    "checkpoint.every=24h",
    "data.probe=null",
    "register=null",
)


class Clock:
    """A recorder that only notes when each logging step came, and hands the metrics on.

    Args:
        behind: Another recorder.
    """

    def __init__(self, behind: Recorder | None = None) -> None:
        self._behind = behind
        self.moments: dict[int, float] = {}

    def log(self, step: int, pictures: int, metrics: dict[str, float]) -> None:
        """Note the moment."""
        self.moments[step] = time.time()
        if self._behind is not None:
            self._behind.log(step, pictures, metrics)


def seconds_per_step(moments: dict[int, float]) -> float:
    """Between the first logging step after the warm-up and the last."""
    steps = [step for step in sorted(moments) if step >= WARM_STEPS]
    return (moments[steps[-1]] - moments[steps[0]]) / (steps[-1] - steps[0])


def in_this_process(layer: str, spec_file: str, overrides: list[str], home: Path) -> float:
    """Seconds per step of one of the layers without Ray."""
    import torch

    from jobs.loading.process import LoaderProcess
    from jobs.run_folder import RunFolder
    from jobs.spec import load_spec
    from jobs.tracking.runs import MetricSender, open_run
    from jobs.tracking.server import tracking_uri
    from jobs.training.heartbeat import Heartbeat
    from jobs.training.loop import Trainer
    from jobs.training.numerics import set_numerics
    from jobs.training.plan import decoding_threads, open_data
    from jobs.training.ranks import Ranks
    from jobs.training.run import run
    from jobs.training.timing import Window
    from jobs.training.watchdog import Watchdog

    class BareTrainer(Trainer):
        def log(self) -> bool:
            clock.log(self.step, 0, {})
            self.window = Window(self.ranks.device, self.stream.counters)
            return False

    spec = load_spec(Path(spec_file), overrides)
    torch.set_num_threads(1)
    ranks = Ranks(0, 1, torch.device("cpu"))
    folder = RunFolder(str(home / "runs"), f"{layer}-{time.time_ns()}")
    folder.claim(spec)
    clock = Clock()
    if layer == "loop":
        set_numerics(ranks.device, precision=spec.train.precision)
        with LoaderProcess(threads=decoding_threads(spec), cache=spec.scale.cache) as loader:
            BareTrainer(
                spec,
                open_data(spec, loader),
                folder=folder,
                ranks=ranks,
                heartbeat=Heartbeat(folder),
                watchdog=Watchdog(folder, rank=0, limit_s=3600),
                recorder=clock,
                saver=None,
            ).train()
    elif layer == "health":
        run(spec, folder=folder, ranks=ranks, recorder=clock)
    else:
        tracked = open_run(
            tracking_uri(home), experiment="overhead", run_id=folder.run_id, name=layer, params={}, tags={}
        )
        sender = MetricSender(tracked, spool=home / f"{folder.run_id}.jsonl")
        clock = Clock(sender)
        run(spec, folder=folder, ranks=ranks, recorder=clock)
        sender.close(timeout=60.0)
    return seconds_per_step(clock.moments)


def on_ray(spec_file: str, overrides: list[str], home: Path) -> tuple[float, float]:
    """Seconds per step of the whole job, by the moments that MLflow has, and the part that it waits for pictures."""
    from mlflow import MlflowClient

    from jobs.run_folder import RunFolder
    from jobs.tracking.server import tracking_uri

    run_id = f"ray-{time.time_ns()}"
    command = [sys.executable, "-m", "jobs.pretrain", spec_file, "--run-id", run_id, "--home", str(home)]
    command += ["--storage", str(home / "runs")] + [word for change in overrides for word in ("--set", change)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = MlflowClient(tracking_uri(home))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`reco.run_id` = '{run_id}'")
    points = client.get_metric_history(found.info.run_id, "train/loss")
    records = RunFolder(str(home / "runs"), run_id).records()
    waits = [record["metrics"]["time/data_wait"] for record in records if record["step"] > WARM_STEPS]
    return seconds_per_step({point.step: point.timestamp / 1e3 for point in points}), statistics.mean(waits)


def one_layer(layer: str, arguments: argparse.Namespace, home: Path) -> tuple[float, float | None]:
    """The same of any layer, in a process of its own; only the last knows what it waits for."""
    command = [sys.executable, "-m", "benchmarks.overhead", arguments.spec, "--layer", layer, "--home", str(home)]
    for change in arguments.overrides:
        command += ["--set", change]
    environment = {name: of for name, of in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}
    )
    if ran.returncode:
        raise SystemExit(f"{layer} failed:\n{ran.stderr[-3000:]}")
    seconds, wait = json.loads(ran.stdout.splitlines()[-1])
    return seconds, wait


def table(figures: dict[str, list[float]]) -> str:
    """Median and range of the rounds as Markdown."""
    lines = ["| layer | ms per step | over the bare loop |", "|---|---|---|"]
    for layer in LAYERS:
        over = [100 * (each / bare - 1) for each, bare in zip(figures[layer], figures["loop"], strict=True)]
        cell = "" if layer == "loop" else f"{spread(over, 2)} %"
        lines.append(f"| {layer} | {spread([1e3 * each for each in figures[layer]])} | {cell} |")
    return "\n".join(lines)


def main() -> None:
    arguments = parse()
    if arguments.layer:
        overrides = [*FIXED, *arguments.overrides]
        home = Path(arguments.home)
        if arguments.layer == "ray":
            print(json.dumps(on_ray(arguments.spec, overrides, home)))
        else:
            print(json.dumps([in_this_process(arguments.layer, arguments.spec, overrides, home), None]))
        return
    from jobs.tracking.server import stop_server, tracking_uri

    figures: dict[str, list[float]] = {layer: [] for layer in LAYERS}
    waits: list[float] = []
    with tempfile.TemporaryDirectory(prefix="reco-overhead-") as folder:
        home = Path(folder)
        tracking_uri(home)  # one server for all rounds
        try:
            for number in range(arguments.rounds):
                for layer in LAYERS if number % 2 == 0 else LAYERS[::-1]:
                    seconds, wait = one_layer(layer, arguments, home)
                    figures[layer].append(seconds)
                    waits += [] if wait is None else [wait]
                    shown = f"round {number + 1}: {layer}: {1e3 * figures[layer][-1]:.4g} ms"
                    print(shown, file=sys.stderr, flush=True)
        finally:
            stop_server(home)
    print(table(figures))
    print(f"\nThe whole job waits for pictures for {spread([100 * wait for wait in waits], 2)} % of its time.")
    if arguments.json:
        found = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "seconds_per_step": figures, "data_wait": waits}
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="a run's spec, with steps of 200 ms or more")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the figures there too")
    parser.add_argument("--layer", choices=LAYERS, help=argparse.SUPPRESS)
    parser.add_argument("--home", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
