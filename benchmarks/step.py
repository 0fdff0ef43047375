"""One training step of a single worker, split by what it is spent on, against a plain one of the same mathematics.

    python -m benchmarks.step run.yaml
    python -m benchmarks.step --encoder resnet50 --image-size 224 --batch 256

Each round measures ours, plain, plain, ours, so that a machine that slows down slows both. Ours is the loop's own
`jobs.training.learner`, in the spec's precision, TF32 allowed. The plain side is `benchmarks.plain_reco` in float32
with torch's own defaults for TF32, and SGD that is not fused; its moving average and its queues are part of its
forward, as in MoCo. Both get the same views from `jobs.views`, made of pictures of noise: so their time is stated, but
only the step after them is compared. Reading and decoding are not part of it.

Without a spec, only torch and numpy are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from benchmarks.measure import spread
from benchmarks.plain_reco import PlainReCo
from jobs.reco import ReCoConfig, StepViews
from jobs.training.learner import Learner
from jobs.training.ranks import Ranks
from jobs.views import Pictures, Views
from jobs.views.parameters import Integers

if TYPE_CHECKING:
    from jobs.spec import ViewsSpec

PHASES = ("views", "forward", "backward", "update")
BATCHES = 4  # of different pictures, taken in turn


@dataclass(frozen=True)
class DefaultViews:
    """The defaults of `jobs.spec.ViewsSpec`, where that cannot be imported."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    greyscale: float = 0.2

    def blur_probability(self, image_size: int) -> float:
        return 0.0 if image_size <= 32 else 0.5


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        method: Method and network of both sides; its groups are ours alone.
        views: How pictures are augmented.
        image_size: Side of a view in pixels.
        batch: Pictures per step of this worker.
        precision: Ours: bf16 or fp32.
        compile: Whether our encoders are compiled.
    """

    method: ReCoConfig
    views: ViewsSpec
    image_size: int
    batch: int
    precision: str
    compile: bool = False


class Clock:
    """Where the time of one step goes: events on a GPU, which nothing waits for, or the time of day on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Note the end of a phase, or the start of the first."""
        if not self._cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Length of each phase in seconds; the device must have come to the last mark."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) / 1e3 if self._cuda else b - a for a, b in pairs]


Step = Callable[[int, Clock], None]


class Material:
    """Pictures of noise on the device, a third larger than the views, and the views of a step made of them."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case = case
        self.views = Views(case.views, image_size=case.image_size, seed=0)
        side = case.image_size * 4 // 3
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (BATCHES, case.batch, side, side, 3), dtype=np.uint8)
        self.batches = [Pictures.pack(list(batch)).to(device) for batch in noise]

    def of_step(self, step: int) -> tuple[Pictures, Integers]:
        """The pictures of a step and their sample ids."""
        return self.batches[step % BATCHES], np.arange(step * self.case.batch, (step + 1) * self.case.batch)

    @torch.no_grad()
    def step_views(self, step: int) -> StepViews:
        pictures, ids = self.of_step(step)
        query, key = self.views.strong(pictures, epoch=0, sample_ids=ids, views=(0, 1))
        weak = None
        if self.case.method.global_weight > 0:
            weak = self.views.weak(pictures, epoch=0, sample_ids=ids, view=2)
        return StepViews(query, key, weak)


def ours(case: Case, material: Material, device: torch.device) -> Step:
    learner = Learner(
        case.method,
        material.views,
        ranks=Ranks(0, 1, device),
        momentum=0.9,
        weight_decay=1e-4,
        bf16=case.precision == "bf16",
        compiled=case.compile,
    )

    def step(number: int, clock: Clock) -> None:
        pictures, ids = material.of_step(number)
        # Of the loop's phases only waiting for pictures is left out: its end is the start of the views.
        learner.learn(pictures, epoch=0, sample_ids=ids, step=number, learning_rate=0.03, passed=lambda _: clock.mark())

    return step


def plain(case: Case, material: Material, device: torch.device) -> Step:
    model = PlainReCo(case.method).to(device)
    optimizer = torch.optim.SGD(
        model.query_encoder.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, foreach=False, fused=False
    )

    def step(number: int, clock: Clock) -> None:
        clock.mark()
        made = material.step_views(number)
        weak = None if made.weak is None else made.weak.contiguous()
        views = StepViews(made.query.contiguous(), made.key.contiguous(), weak)
        clock.mark()
        loss = model(views, step=number)  # the moving average and the queues too, as in MoCo
        optimizer.zero_grad()
        clock.mark()
        loss.backward()
        clock.mark()
        optimizer.step()
        clock.mark()

    return step


def turn(step: Step, *, first: int, steps: int, warm: int, device: torch.device) -> dict[str, float]:
    """Mean seconds of each phase, and of the whole step by the wall clock, over `steps` steps after `warm` others."""
    for number in range(first, first + warm):
        step(number, Clock(device))
    clocks = [Clock(device) for _ in range(steps)]
    settle(device)
    start = time.perf_counter()
    for number, clock in enumerate(clocks, first + warm):
        step(number, clock)
    settle(device)
    whole = (time.perf_counter() - start) / steps
    means = np.mean([clock.seconds() for clock in clocks], axis=0).tolist()
    return dict(zip(PHASES, means, strict=True)) | {"whole": whole, "step": whole - means[0]}


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allow_tf32(*, matmul: bool) -> None:
    torch.backends.cudnn.benchmark = True  # MoCo's published code sets it too
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = matmul


def measure(
    case: Case, *, rounds: int, steps: int, warm: int, device: torch.device
) -> dict[str, list[dict[str, float]]]:
    """Two turns of each side a round, in the order ours, plain, plain, ours."""
    material = Material(case, device)
    sides = {"ours": ours(case, material, device), "plain": plain(case, material, device)}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    done = dict.fromkeys(sides, 0)
    for number in range(rounds):
        for name in ("ours", "plain", "plain", "ours"):
            allow_tf32(matmul=name == "ours")
            found = turn(sides[name], first=done[name], steps=steps, warm=warm, device=device)
            done[name] += warm + steps
            figures[name].append(found)
            print(f"round {number + 1}: {name}: {1e3 * found['step']:.4g} ms", file=sys.stderr, flush=True)
    return figures


def ratios(figures: dict[str, list[dict[str, float]]], phase: str) -> list[float]:
    """Plain over ours, of the two turns that each side has in a round."""

    def by_round(name: str) -> list[float]:
        values = [found[phase] for found in figures[name]]
        return [a + b for a, b in zip(values[::2], values[1::2], strict=True)]

    return [b / a for a, b in zip(by_round("ours"), by_round("plain"), strict=True)]


def table(figures: dict[str, list[dict[str, float]]], batch: int) -> str:
    """Median and range of the turns as Markdown; ratios are of rounds."""
    lines = ["| | ours | plain | plain / ours |", "|---|---|---|---|"]
    words = {
        "forward": "forward, ms",
        "backward": "backward, ms",
        "update": "update, ms",
        "step": "**step without views**, ms",
        "views": "views, ms",
        "whole": "step with views, ms",
    }
    for phase, label in words.items():
        cells = [spread([1e3 * found[phase] for found in figures[name]]) for name in ("ours", "plain")]
        lines.append(f"| {label} | {cells[0]} | {cells[1]} | {spread(ratios(figures, phase))} |")
    for phase, label in (("step", "pictures/s without views"), ("whole", "pictures/s with views")):
        cells = [spread([batch / found[phase] for found in figures[name]], 4) for name in ("ours", "plain")]
        lines.append(f"| {label} | {cells[0]} | {cells[1]} | |")
    return "\n".join(lines)


def describe(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"


def case_of(arguments: argparse.Namespace) -> Case:
    if arguments.spec:
        case = _case_of_spec(arguments.spec)
    else:
        method = ReCoConfig(encoder="resnet50", queue_size=65536, groups=1)
        case = Case(method, cast("ViewsSpec", DefaultViews()), image_size=224, batch=256, precision="bf16")
    given = {name: value for name in ("image_size", "batch", "precision") if (value := getattr(arguments, name))}
    changed = {
        name: value for name in ("encoder", "stem", "width", "queue_size") if (value := getattr(arguments, name))
    }
    case = replace(case, **given, method=replace(case.method, groups=arguments.groups, **changed))
    if case.method.queue_size % case.batch:
        raise SystemExit(f"the queue of {case.method.queue_size} must be a multiple of the batch of {case.batch}")
    return case


def _case_of_spec(path: str) -> Case:
    # Imported here: both need more than torch.
    from jobs.spec import load_spec
    from jobs.training.plan import method_config

    spec = load_spec(Path(path))
    return Case(
        method_config(spec),
        spec.views,
        image_size=spec.data.image_size,
        batch=spec.train.global_batch_size // spec.scale.workers,
        precision=spec.train.precision,
        compile=spec.train.compile,
    )


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = case_of(arguments)
    figures = measure(case, rounds=arguments.rounds, steps=arguments.steps, warm=arguments.warm, device=device)
    if not arguments.json:
        method = case.method
        print(
            f"{describe(device)}; {method.encoder} ({method.stem} stem, width {method.width}) at {case.image_size} "
            f"pixels, {case.batch} pictures a step, queue {method.queue_size}; ours in {case.precision} with "
            f"{method.groups} group(s), plain in float32. Median (range) of {2 * arguments.rounds} turns of "
            f"{arguments.steps} steps.\n"
        )
        print(table(figures, case.batch))
        return
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": describe(device),
        "case": {
            "encoder": case.method.encoder,
            "stem": case.method.stem,
            "width": case.method.width,
            "image_size": case.image_size,
            "batch": case.batch,
            "queue_size": case.method.queue_size,
            "precision": case.precision,
            "compile": case.compile,
            "groups": case.method.groups,
        },
        "steps_per_turn": arguments.steps,
        "seconds": figures,
        "plain_over_ours": ratios(figures, "step"),
        "pictures_per_s": {
            name: case.batch / statistics.median(found["step"] for found in turns) for name, turns in figures.items()
        },
    }
    Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", help="a run's spec; the options below change it")
    parser.add_argument("--encoder", help="resnet50 without a spec")
    parser.add_argument("--stem", choices=["imagenet", "cifar"])
    parser.add_argument("--width", type=int)
    parser.add_argument("--image-size", type=int, help="224 without a spec")
    parser.add_argument("--batch", type=int, help="pictures per step; a worker's share of the spec's, or 256")
    parser.add_argument("--queue-size", type=int)
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="ours; bf16 without a spec")
    parser.add_argument("--groups", type=int, default=1, help="ours; above 1 the plain side does less")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="measured steps per turn")
    parser.add_argument("--warm", type=int, default=3, help="steps before them")
    parser.add_argument("--threads", type=int, help="threads on a CPU")
    parser.add_argument("--json", help="file for the figures, instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
