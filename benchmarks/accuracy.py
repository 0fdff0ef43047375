"""ReCo beside MoCo v2 on CIFAR-10, at equal epochs and at equal compute, over several seeds, in pieces of any length.

    python -m benchmarks.accuracy path/to/cifar10-shards --tune --minutes 9
    python -m benchmarks.accuracy path/to/cifar10-shards --seeds 0 1 2 --minutes 9

runs `examples/cifar10.yaml` through `python -m jobs.training`. In the last 45 seconds of `--minutes`, or when it gets
SIGINT, SIGTERM or SIGHUP, it asks the run to save and stop; the same command goes on from there. It ends with 3 while
anything is left, and with 0 when it has written the table and the curves beside the figures: one JSON for each mode,
arm and seed. A run whose figures lie in --results is not run again, even where --work with its checkpoints is gone.

Compute is counted in forward passes of one picture, a backward pass being two. A step of ReCo takes two query passes
with gradient and two key passes, 2 · 3 + 2 = 8 units a picture; one of MoCo v2 takes 3 + 1 = 4. So the arm
`equal-compute` gives MoCo v2 twice the epochs, on a schedule of that length. ReCo's run is the same in both arms and is
made once. Making the views is not counted; the table has the seconds spent in training, which hold everything.

`--tune` gives both modes the same number of short trials (`MOCO_GRID`, `RECO_GRID`) with a seed of their own, judged by
k-NN on the held-out tenth of the training shards; trials never see the test set. The choice is written to
`tuned.json` in --results, and the runs take it from there; without it they are as the spec says. `--set` comes on top.
A trial that diverges ends the tuning: take its point out, and one out of the other mode's grid.

Needs torch with what that brings, numpy, and the wheels of pydantic (with pydantic-core, annotated-types,
typing-extensions, typing-inspection), PyYAML, google-crc32c, simplejpeg and pillow; matplotlib for the curves only.
The shards are only read: their index lies in --work.

A run of 200 epochs within 25 minutes takes 7,000 pictures a second. One core decodes 60,000 of CIFAR-10; with reading
and checking, its loader spends 20 µs on each, so that a seventh of a core would do. A worker therefore needs two cores:
one for its own process, which keeps the GPU busy, and one for everything else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from jobs.errors import RecoError, UserError
from jobs.run_folder import Progress, Record, RunFolder
from jobs.spec import RunSpec, load_spec, to_yaml
from jobs.tracking.figures import overlaid_curves

SPEC = Path("examples/cifar10.yaml")
MODES = {
    "reco": [],
    "moco-v2": ["method.global_relation.weight=0", "method.local_relation.weight=0"],
}
TITLES = {"reco": "ReCo", "moco-v2": "MoCo v2"}
ARMS = ("equal-epochs", "equal-compute")

MOCO_GRID = tuple(
    (f"optimizer.lr={rate}", f"method.temperature={temperature}")
    for rate in (0.03, 0.06, 0.12)
    for temperature in (0.1, 0.2)
)
RECO_GRID = (
    ("optimizer.lr=0.06",),  # the spec as it is; each of the others changes one thing
    ("optimizer.lr=0.03",),
    ("optimizer.lr=0.12",),
    ("method.temperature=0.2",),
    ("method.local_relation.weight=0.5",),
    ("method.global_relation.teacher_temperature=0.05",),
)
GRIDS = {"reco": RECO_GRID, "moco-v2": MOCO_GRID}
TRIAL_EPOCHS, TRIAL_SEED = 20, 1000

CURVES = {"train/contrast": "contrast loss", "valid/knn": "k-NN on held-out training pictures (%)"}
CURVE_POINTS = 100
SAVING_S, POLL_S = 45.0, 0.5
PIECES_LEFT = 3
"""Exit code of a piece after which something is left to do."""


@dataclass(frozen=True)
class Run:
    """One run of a mode, and where its figures go.

    Attributes:
        mode: Of `MODES`.
        seed: Of the order, the views and the weights.
        changes: What differs from the spec besides the mode: what was tuned, and `--set`.
        spec: With the shards where they lie here.
        experiment: Hash of the spec without that, the same on every machine.
        files: A file for each arm it belongs to.
    """

    mode: str
    seed: int
    changes: list[str]
    spec: RunSpec
    experiment: str
    files: dict[str, Path]

    @classmethod
    def of(
        cls,
        mode: str,
        *,
        seed: int,
        epochs: int,
        changes: list[str],
        data: list[str],
        results: Path,
        arms: Sequence[str],
    ) -> Run:
        """The run of a mode; its warm-up takes no more than a quarter of it."""
        warmup = min(load_spec(SPEC, changes).train.warmup_epochs, epochs // 4)
        fixed = [f"train.epochs={epochs}", f"train.warmup_epochs={warmup}", f"train.seed={seed}"]
        wanted = [*changes, *MODES[mode], *fixed]
        files = {arm: results / f"{mode}-{arm}-seed-{seed}.json" for arm in arms}
        return cls(mode, seed, changes, load_spec(SPEC, [*wanted, *data]), load_spec(SPEC, wanted).hash, files)

    def __str__(self) -> str:
        return f"{TITLES[self.mode]}, {self.spec.train.epochs} epochs, seed {self.seed}"

    @property
    def run_id(self) -> str:
        return f"{self.mode}-{self.spec.train.epochs}-epochs-seed-{self.seed}-{self.experiment}"

    def figures(self) -> dict[str, dict[str, Any]]:
        """Of each arm whose file is there.

        Raises:
            UserError: If a file holds those of another experiment.
        """
        found = {arm: json.loads(file.read_text()) for arm, file in self.files.items() if file.exists()}
        for arm, figures in found.items():
            if figures["experiment"] != self.experiment:
                raise UserError(
                    f"{self.files[arm]} holds the figures of another spec ({', '.join(figures['changes']) or SPEC}).",
                    hint="Name another folder with --results, or take that file away.",
                )
        return found

    @property
    def is_complete(self) -> bool:
        return self.figures().keys() == self.files.keys()


class Piece:
    """The time this command has, which a signal cuts short.

    Args:
        minutes: Its length; None for as long as it takes.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + max(60 * minutes, SAVING_S)
        self._asked = False

    @property
    def is_ending(self) -> bool:
        """Whether the run is to save and stop."""
        return self._asked or time.monotonic() > self._end - SAVING_S

    @property
    def is_over(self) -> bool:
        """Whether there is no more time even for that."""
        return time.monotonic() > self._end

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Let a first signal end the piece, and a second one end this process and the run at once."""

        def ask(_number: int, _frame: object) -> None:
            print("saving a checkpoint and stopping", flush=True)
            self._asked = True
            for each in before:
                signal.signal(each, signal.default_int_handler)

        # What was ignored from the start stays so, as nohup wants it.
        heard = [
            each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN
        ]
        before = {number: signal.signal(number, ask) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Line:
    """Says how far a run is: once an epoch, and when it does something else than train.

    Args:
        run: What is told of.
        knn: The latest k-NN, where there is one already.
    """

    def __init__(self, run: Run, knn: float | None) -> None:
        self._run, self._knn = run, knn
        self._epoch, self._phase = -1, "training"

    def tell(self, progress: Progress) -> None:
        """Print what is new."""
        metrics, phase = progress["metrics"], progress["phase"]
        self._knn = metrics.get("valid/knn", self._knn)
        if phase != self._phase and phase != "training":
            print(f"{self._run} · step {progress['step']:,} · {phase}", flush=True)
        self._phase = phase
        if "train/loss" not in metrics or int(progress["epoch"]) == self._epoch:
            return
        self._epoch = int(progress["epoch"])
        knn = "–" if self._knn is None else f"{self._knn:.1f}"
        print(
            f"{self._run} · step {progress['step']:,}/{progress['total_steps']:,} · loss {metrics['train/loss']:.3f} · "
            f"k-NN {knn} · {progress['pictures_per_s']:,.0f} pictures/s · ETA {progress.get('eta_s', 0) / 60:.1f} min",
            flush=True,
        )


def carry_out(run: Run, work: Path, piece: Piece) -> bool:
    """Train until the run is complete or the piece ends; returns whether it is complete.

    Raises:
        RecoError: If it failed; what it said of that is on stderr.
    """
    folder = RunFolder(str(work / "runs"), run.run_id)
    if folder.result() is not None:
        return True
    folder.begin_attempt()  # what an earlier piece said is old
    spec_file = work / "specs" / f"{run.run_id}.yaml"
    spec_file.parent.mkdir(parents=True, exist_ok=True)
    spec_file.write_text(to_yaml(run.spec))
    command = [sys.executable, "-m", "jobs.training", str(spec_file)]
    command += ["--storage", str(work / "runs"), "--run-id", run.run_id]
    print(f"{run}: {' '.join(run.changes) or 'as the spec says'}", flush=True)
    judged = [point["valid/knn"] for point in curve(folder) if "valid/knn" in point]
    line = Line(run, knn=judged[-1] if judged else None)
    # In a process group of its own: Ctrl-C is for this process, which then asks.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0) as child:
        try:
            while child.poll() is None and not piece.is_over:
                if piece.is_ending:
                    folder.request_stop()  # each time: an attempt that only now begins forgets what was asked before
                progress = folder.progress()
                if progress is not None:
                    line.tell(progress)
                time.sleep(POLL_S)
        finally:
            child.kill()  # does nothing where it has ended
    if child.returncode != 0 and not piece.is_over:
        raise RecoError(f"{run} failed with exit code {child.returncode}.", hint="It says why above.")
    return folder.result() is not None


def keep(run: Run, work: Path) -> None:
    """Write what a complete run came to, for each of its arms."""
    folder = RunFolder(str(work / "runs"), run.run_id)
    records = folder.records()
    machines = [f"{each['device']}, torch {each['torch']}, CUDA {each['cuda']}" for each in folder.attempts()]
    figures = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": "; ".join(dict.fromkeys(machines)),
        "spec": str(SPEC),
        "changes": run.changes,
        "experiment": run.experiment,
        "mode": run.mode,
        "seed": run.seed,
        "epochs": run.spec.train.epochs,
        "steps": records[-1]["step"],
        "units_per_picture": units(run.spec) * run.spec.train.epochs,
        "training_seconds": round(training_seconds(records), 1),
        "results": folder.result(),
        "curve": curve(folder),
    }
    for arm, file in run.files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"arm": arm, **figures}) + "\n")


def units(spec: RunSpec) -> int:
    """Forward units of a step for each of its pictures: 3 for a pass with gradient, 1 for one without."""
    local, glob = spec.method.local_relation.weight > 0, spec.method.global_relation.weight > 0
    return 3 * (1 + local) + (1 + glob)


def training_seconds(records: Sequence[Record]) -> float:
    """Seconds spent in the steps that count: without start, probes and saving, nor what was lost and done again."""
    seconds, before = 0.0, 0
    for record in records:
        seconds += record["metrics"]["time/step_s"] * (record["step"] - before)
        before = record["step"]
    return seconds


def curve(folder: RunFolder) -> list[dict[str, float]]:
    """What is drawn of a run: about `CURVE_POINTS` of its records, and all that have a k-NN."""
    records = folder.records()
    every = math.ceil(len(records) / CURVE_POINTS)
    return [
        {"step": record["step"], "pictures": record["pictures"]}
        | {name: round(record["metrics"][name], 4) for name in CURVES if name in record["metrics"]}
        for number, record in enumerate(records, 1)
        if number % every == 0 or "valid/knn" in record["metrics"]
    ]


def shards_of(folder: Path, work: Path) -> list[str]:
    """Overrides that name the shards: the last tenth of the training shards is held out of the probes' training set.

    Raises:
        UserError: If there are too few.
    """
    train, test = (sorted(map(str, folder.glob(f"cifar10-{part}-*.tar"))) for part in ("train", "test"))
    held_out = max(1, len(train) // 10)
    if len(train) <= held_out or not test:
        raise UserError(
            f"{folder} has {len(train)} shards cifar10-train-*.tar and {len(test)} cifar10-test-*.tar.",
            hint="At least two for training and one for the test are needed.",
        )
    sources = {"train": train, "probe.train": train[:-held_out], "probe.valid": train[-held_out:], "probe.test": test}
    return [f"data.{name}={json.dumps(shards)}" for name, shards in sources.items()] + [
        f"data.index={json.dumps(str(work / 'index'))}"
    ]


def runs_to_compare(arguments: argparse.Namespace, data: list[str]) -> list[Run]:
    """Every run that the arms take, seed after seed, with what was tuned for its mode."""
    results, tuned = Path(arguments.results), Path(arguments.results) / "tuned.json"
    choice: dict[str, list[str]] = json.loads(tuned.read_text())["choice"] if tuned.exists() else {}
    changes = {mode: [*choice.get(mode, []), *arguments.overrides] for mode in MODES}
    epochs = arguments.epochs or load_spec(SPEC, arguments.overrides).train.epochs
    cost = {mode: units(load_spec(SPEC, [*changes[mode], *MODES[mode]])) for mode in MODES}
    runs = []
    for seed in arguments.seeds:
        for mode in arguments.modes:
            arms_of: dict[int, list[str]] = {}
            for arm in arguments.arms:
                length = epochs * cost["reco"] // cost[mode] if arm == "equal-compute" else epochs
                arms_of.setdefault(length, []).append(arm)
            runs += [
                Run.of(mode, seed=seed, epochs=length, changes=changes[mode], data=data, results=results, arms=arms)
                for length, arms in arms_of.items()
            ]
    return runs


def trials(arguments: argparse.Namespace, data: list[str]) -> list[Run]:
    """The same number of short runs of both modes, without the test set."""
    return [
        Run.of(
            mode,
            seed=TRIAL_SEED,
            epochs=arguments.epochs or TRIAL_EPOCHS,
            changes=[*point, *arguments.overrides],
            data=[*data, "data.probe.test=null"],
            results=Path(arguments.results),
            arms=[f"trial-{number}"],
        )
        for mode, grid in GRIDS.items()
        for number, point in enumerate(grid)
    ]


def choose(arguments: argparse.Namespace, runs: Sequence[Run]) -> str:
    """Write the best point of each grid to `tuned.json`; returns all trials as Markdown."""
    lines = ["| mode | trial | k-NN, valid | chosen |", "|---|---|---|---|"]
    choice: dict[str, list[str]] = {}
    for mode, grid in GRIDS.items():
        judged = [
            figures["results"]["valid/knn"] for run in runs if run.mode == mode for figures in run.figures().values()
        ]
        best = judged.index(max(judged))
        choice[mode] = list(grid[best])
        for number, (point, accuracy) in enumerate(zip(grid, judged, strict=True)):
            chosen = "yes" if number == best else ""
            lines.append(f"| {TITLES[mode]} | {', '.join(point)} | {accuracy:.2f} | {chosen} |")
    found = {"epochs": runs[0].spec.train.epochs, "seed": TRIAL_SEED, "judged_by": "valid/knn", "choice": choice}
    (Path(arguments.results) / "tuned.json").write_text(json.dumps(found, indent=1) + "\n")
    return "\n".join(lines)


def report(arguments: argparse.Namespace, runs: Sequence[Run]) -> str:
    """Write table and curves; returns the table."""
    results = Path(arguments.results)
    found = [figures for run in runs for figures in run.figures().values()]
    text = table(found)
    (results / "accuracy.md").write_text(text + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed here: no curves are drawn. The figures hold what they are drawn from.")
        return text
    curves = {
        f"{TITLES[mode]}, {epochs} epochs": mean_curve(
            [each["curve"] for each in found if key_of(each) == (mode, epochs)]
        )
        for mode, epochs in dict.fromkeys(map(key_of, found))
    }
    drawn = {
        name: label for name, label in CURVES.items() if any(name in point for of in curves.values() for point in of)
    }
    overlaid_curves(curves, drawn, results / "accuracy.png", title="CIFAR-10, mean over seeds")
    return text


def table(found: Sequence[dict[str, Any]]) -> str:
    """The figures of all runs as Markdown: mean and range over the seeds."""
    lines = [
        "| compared at | mode | epochs | forward units per picture | k-NN, test | linear, test | training, min |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        of_arm = {mode: [each for each in found if (each["arm"], each["mode"]) == (arm, mode)] for mode in MODES}
        of_arm = {mode: runs for mode, runs in of_arm.items() if runs}
        for mode, runs in of_arm.items():
            accuracies = [around([run["results"][f"test/{probe}"] for run in runs]) for probe in ("knn", "linear")]
            minutes = around([run["training_seconds"] / 60 for run in runs], 1)
            cells = [TITLES[mode], str(runs[0]["epochs"]), f"{runs[0]['units_per_picture']:,}", *accuracies, minutes]
            lines.append(f"| {arm.replace('-', ' ')} | {' | '.join(cells)} |")
        if len(of_arm) == 2:
            # Of one seed, order, views and first weights are the same in both modes, so each pair is a comparison.
            ahead = [
                around(
                    [r["results"][name] - m["results"][name] for r, m in zip(*of_arm.values(), strict=True)],
                    signed=True,
                )
                for name in ("test/knn", "test/linear")
            ]
            lines.append(f"| {arm.replace('-', ' ')} | ReCo − MoCo v2, by seed | | | {' | '.join(ahead)} | |")
    for name, title in (("knn_untrained", "untrained, batch statistics calibrated"), ("knn_raw_pixels", "raw pixels")):
        of_seed = {each["seed"]: each["results"][f"test/{name}"] for each in found}  # no mode or arm has a part in it
        lines.append(f"| | {title} | | | {around(list(of_seed.values()))} | | |")
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(each["seed"] for each in found))
    machines = "; ".join(dict.fromkeys(each["machine"] for each in found))
    lines += ["", f"Mean (range) over the seeds {seeds}. {machines}."]
    for mode, changes in {each["mode"]: each["changes"] for each in found}.items():
        lines.append(f"{TITLES[mode]}: `{SPEC}`{', with ' if changes else ''}{', '.join(changes)}.")
    return "\n".join(lines)


def around(values: Sequence[float], digits: int = 2, *, signed: bool = False) -> str:
    """Mean and range, as `88.10 (87.90–88.30)`; of one value, that."""
    shown = [f"{value:{'+' if signed else ''}.{digits}f}" for value in (mean(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def key_of(figures: dict[str, Any]) -> tuple[str, int]:
    return figures["mode"], figures["epochs"]


def mean_curve(curves: Sequence[list[dict[str, float]]]) -> list[dict[str, float]]:
    """The mean over seeds, at the steps that all have."""
    points = [{point["step"]: point for point in each} for each in curves]
    steps = sorted(set.intersection(*map(set, points)))
    return [{name: mean(of[step][name] for of in points) for name in points[0][step]} for step in steps]


def main(words: Sequence[str] | None = None) -> int:
    """Do what is left, or as much as there is time for; returns the exit code."""
    arguments = parse(words)
    work, piece = Path(arguments.work), Piece(arguments.minutes)
    try:
        data = shards_of(Path(arguments.shards), work)
        runs = trials(arguments, data) if arguments.tune else runs_to_compare(arguments, data)
        with piece.ended_by_signals():
            for number, run in enumerate([run for run in runs if not run.is_complete]):
                # The first is begun even in no time at all, so that every piece gets further.
                if (number and piece.is_ending) or not carry_out(run, work, piece):
                    break
                keep(run, work)
        complete = sum(run.is_complete for run in runs)
        if complete < len(runs):
            print(f"{complete} of {len(runs)} runs are complete; the same command goes on.")
            return PIECES_LEFT
        print(choose(arguments, runs) if arguments.tune else report(arguments, runs))
    except RecoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder with cifar10-train-*.tar and cifar10-test-*.tar")
    parser.add_argument("--tune", action="store_true", help="run the trials of both modes and choose; nothing else")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help=f"of ReCo; the spec's by default, {TRIAL_EPOCHS} for trials")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--minutes", type=float, help="longest time this call may take")
    parser.add_argument("--work", default="build/accuracy", help="where runs and the index of the shards are kept")
    parser.add_argument("--results", default="docs/results/cifar10", help="where figures, table and curves go")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
