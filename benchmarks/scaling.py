"""Training on 1, 2 and 4 ranks of one host, and on as many hosts: pictures per second, and what ranks send each other.

    python -m benchmarks.scaling
    python -m benchmarks.scaling run.yaml --set data.train=SHARDS --rounds 5 --json FILE

Every run trains the same spec with the same global batch, over gloo, with one compute thread a rank and a loader beside
each. Rounds go through the runs forwards and backwards in turn; speed-ups are against the one rank of the same round.
Without a spec a ResNet-18 of width 32 learns from small pictures made for it; a given one is trained without probes,
checkpoints and GPUs. Hosts are network namespaces on this machine, which need root and pictures on its own disk, not
below /tmp; where they cannot be made that is said, and the ranks are measured alone. They share the cores too: what
they add is that every byte between ranks goes through a counter.

Pictures per second are those between the start of two steps, logging included; how a step's time divides is what the
run's own records say, in which waiting for other ranks belongs to the phase that waits.

With W ranks of B pictures each, views of S × S pixels, K views per key (2 with the global relation, else 1), features
of D numbers and P parameters of the query encoder, a rank sends in a step, in bytes:

- the key shuffle, an all-to-all: B · (W − 1) / W pictures of K · 3 · S² · 4, or · 2 in bf16, as an expectation: which
  pictures leave their rank is the permutation's choice. By all-gather, MoCo's way, it would be (W − 1) · B pictures.
- the key features, an all-gather: (W − 1) · B · K · D · 4, and as much comes in.
- the gradients, a ring all-reduce: 2 · (W − 1) / W · P · 4.

What was sent is counted by each host's interface, from the start of one step to the start of another, so nothing of
meeting and starting is in it. The interface is read before the shuffle, before the features are gathered and after
that, so the few numbers that ranks agree on between steps count among the gradients. Headers are included. They are few
here, since these links carry segments of up to 64 kB; packets of 1500 bytes would add 4 to 5 %.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.measure import spread
from jobs.errors import RecoError
from jobs.reco.draws import key_permutation
from jobs.reco.model import Branch
from jobs.reco.shuffle import KeyShuffle
from jobs.run_folder import Record, RunFolder
from jobs.spec import RunSpec, load_spec, to_yaml
from jobs.training.plan import method_config
from jobs.training.ranks import ranks_from_environment
from jobs.training.run import run
from tests.cluster.hosts import Host, network, why_no_hosts
from tests.pictures import tiny_spec, write_shards
from tests.ranks import free_port

KINDS = ("ranks", "hosts")
COLLECTIVES = ("key shuffle", "key features", "gradients")
PHASES = {
    "views": "time/views",
    "forward": "time/forward",
    "backward": "time/backward",
    "update": "time/update",
    "data wait": "time/data_wait",
}
WINDOW = 4  # steps between two records; those before the first warm up
FIXED = (
    "scale.gpus_per_worker=0",
    "scale.cpus_per_worker=1",
    "checkpoint.every=24h",
    f"train.log_every={WINDOW}",
    "data.probe=null",
    "register=null",
)
_CHECKOUT = Path(__file__).parents[1]
_LONGEST_S = 900.0


@dataclass(frozen=True)
class Exchange:
    """What decides how much the ranks of a run send each other in a step.

    Attributes:
        batch: Pictures of the global batch.
        views: Views of each key.
        image_size: Side of a view in pixels.
        features: Length of a feature vector.
        parameters: Of the query encoder.
        pixel_bytes: Of one channel of one pixel, as pictures are exchanged.
    """

    batch: int
    views: int
    image_size: int
    features: int
    parameters: int
    pixel_bytes: int = 4

    @classmethod
    def of(cls, spec: RunSpec) -> Exchange:
        return cls(
            batch=spec.train.global_batch_size,
            views=2 if spec.method.global_relation.weight > 0 else 1,
            image_size=spec.data.image_size,
            features=spec.method.projection_dim,
            parameters=sum(parameter.numel() for parameter in Branch(method_config(spec)).parameters()),
            pixel_bytes=2 if spec.train.precision == "bf16" else 4,
        )

    @property
    def picture_bytes(self) -> int:
        """All views of one key."""
        return self.views * 3 * self.image_size**2 * self.pixel_bytes

    def sent(self, ranks: int) -> dict[str, float]:
        """Bytes that each of so many ranks is expected to send in each collective of a step."""
        others, pictures = ranks - 1, self.batch / ranks
        return {
            "key shuffle": pictures * others / ranks * self.picture_bytes,
            "key features": others * pictures * self.views * self.features * 4,
            "gradients": 2 * others / ranks * self.parameters * 4,
        }

    def sent_by_all_gather(self, ranks: int) -> float:
        """Bytes that each rank would send if every rank was given all pictures, to take its own from."""
        return (ranks - 1) * self.batch / ranks * self.picture_bytes


def leaving(*, seed: int, batch: int, ranks: int, steps: range) -> float:
    """Pictures that the key shuffle takes from one rank to another: the mean over all ranks and those steps."""
    home = torch.arange(ranks)[:, None]
    moved = [
        int((key_permutation(seed=seed, step=step, size=batch).view(ranks, -1) // (batch // ranks) != home).sum())
        for step in steps
    ]
    return statistics.mean(moved) / ranks


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        pictures_per_s: Of all ranks together.
        split: Parts of a step's time by phase, as recorded.
        sent: Bytes per rank and step by collective; empty where no interface counted for these ranks alone.
    """

    pictures_per_s: float
    split: dict[str, float]
    sent: dict[str, float]


class Meter:
    """Notes in each step of one rank when its key shuffle began, and what an interface had sent before and after.

    Args:
        interface: The one that leads to the other ranks.
        until: Step at whose start everything was measured.
        folder: Of the run, which is asked to stop then.
    """

    def __init__(self, interface: str, *, until: int, folder: RunFolder) -> None:
        self._counter = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
        self._until, self._folder = until, folder
        self.steps: list[list[float]] = []

    def attach(self) -> None:
        """Have this process' key shuffles noted; only they know where in a step which collective begins."""
        deal, collect = KeyShuffle.deal, KeyShuffle.collect

        def noted_deal(shuffle: KeyShuffle, pictures: torch.Tensor) -> torch.Tensor:
            if shuffle.rank == 0 and len(self.steps) == self._until:
                self._folder.request_stop()
            self.steps.append([time.perf_counter(), self._sent()])
            return deal(shuffle, pictures)

        def noted_collect(shuffle: KeyShuffle, features: torch.Tensor) -> torch.Tensor:
            before = self._sent()
            collected = collect(shuffle, features)
            self.steps[-1] += [before, self._sent()]
            return collected

        KeyShuffle.deal = noted_deal  # type: ignore[method-assign, assignment]
        KeyShuffle.collect = noted_collect  # type: ignore[method-assign, assignment]

    def _sent(self) -> int:
        return int(self._counter.read_text())


def one_rank(home: Path, until: int) -> None:
    """What each process of a run does: as `python -m jobs.training`, with a meter."""
    spec = load_spec(home / "spec.yaml")
    folder = RunFolder(str(home), "run")
    with ranks_from_environment(spec.scale.cpus_per_worker) as ranks:
        if ranks.is_first:
            folder.claim(spec)
        meter = Meter(os.environ["GLOO_SOCKET_IFNAME"], until=until, folder=folder)
        meter.attach()
        run(spec, folder=folder, ranks=ranks)
    (home / f"rank-{ranks.rank}.json").write_text(json.dumps(meter.steps))


class Here:
    """This host, as a place for ranks beside those of `tests.cluster.hosts`.

    Args:
        folder: For logs.
    """

    address = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, command: str, environment: Mapping[str, str], *, log: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{log}.log").open("wb") as file:
            return subprocess.Popen(
                shlex.split(command), env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()


def one_run(spec: RunSpec, places: Sequence[Host | Here], home: Path, *, interface: str, windows: int) -> Measured:
    """Train on one rank a place.

    Args:
        spec: What to train.
        places: Of the ranks, the first of which they all meet.
        home: A new folder, which all places see.
        interface: Leads to the others at each place.
        windows: To measure, after one to warm up.

    Raises:
        SystemExit: With the end of a rank's log, if one fails.
    """
    home.mkdir()
    (home / "spec.yaml").write_text(to_yaml(spec))
    until = WINDOW * (1 + windows)
    command = [sys.executable, "-m", "benchmarks.scaling", "--home", str(home), "--until", str(until)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(_CHECKOUT),
        "CUDA_VISIBLE_DEVICES": "",  # gloo and one thread is what is compared, on whatever machine
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": interface,
        "MASTER_ADDR": places[0].address,
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(len(places)),
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank, place in enumerate(places):
            log = f"{home.name}-rank-{rank}"
            processes.append(place.start(shlex.join(command), {**environment, "RANK": str(rank)}, log=log))
        failed = _first_that_fails(processes)
        if failed is not None:
            log = places[failed].log(f"{home.name}-rank-{failed}")
            raise SystemExit(f"rank {failed} of {home.name} did not end well:\n{log[-3000:]}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    marks = [json.loads((home / f"rank-{rank}.json").read_text()) for rank in range(len(places))]
    return measured(marks, RunFolder(str(home), "run").records(), batch=spec.train.global_batch_size, until=until)


def _first_that_fails(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all of them, or until one ends with an error or they take too long: its number then."""
    deadline = time.monotonic() + _LONGEST_S
    while True:
        codes = [process.poll() for process in processes]
        for number, code in enumerate(codes):
            if code or (code is None and time.monotonic() > deadline):
                return number
        if not any(code is None for code in codes):
            return None
        time.sleep(0.05)


def measured(
    marks: Sequence[Sequence[Sequence[float]]], records: Sequence[Record], *, batch: int, until: int
) -> Measured:
    """What the ranks' meters and the run's records say of its steps from the warm-up to `until`.

    Raises:
        SystemExit: If the run was over before.
    """
    if any(len(steps) <= until for steps in marks):
        raise SystemExit(f"the run ended within {until} steps: raise train.epochs, or measure fewer --windows")
    count = until - WINDOW
    sent = dict.fromkeys(COLLECTIVES, 0.0)
    for steps in marks:
        for (_, start, gather, gathered), (_, end, *_) in zip(steps[WINDOW:until], steps[WINDOW + 1 :], strict=False):
            for name, part in zip(COLLECTIVES, (gather - start, gathered - gather, end - gathered), strict=True):
                sent[name] += part / count / len(marks)
    within = [record["metrics"] for record in records if WINDOW < record["step"] <= until]
    split = {phase: statistics.mean(metrics[name] for metrics in within) for phase, name in PHASES.items()}
    seconds = marks[0][until][0] - marks[0][WINDOW][0]
    return Measured(batch * count / seconds, split, sent)


Figures = dict[str, dict[int, list[Measured]]]  # by kind and number, one a round


def measure(specs: Mapping[int, RunSpec], kinds: Sequence[str], folder: Path, *, rounds: int, windows: int) -> Figures:
    """All rounds.

    Args:
        specs: By number of ranks.
        kinds: Of `KINDS`.
        folder: For what the runs write; not below /tmp, which each host has for itself.
        rounds: How often each run is made.
        windows: As in `one_run`.
    """
    figures: Figures = {kind: {number: [] for number in specs} for kind in kinds}
    cases = [(kind, number) for kind in kinds for number in specs]
    with _hosts(folder, max(specs) if "hosts" in kinds else 0) as hosts:
        for turn in range(rounds):
            for kind, number in cases if turn % 2 == 0 else cases[::-1]:
                places = hosts[:number] if kind == "hosts" else [Here(folder)] * number
                interface = "eth0" if kind == "hosts" else "lo"
                home = folder / f"{number}-{kind}-round-{turn + 1}"
                found = one_run(specs[number], places, home, interface=interface, windows=windows)
                if kind == "ranks":  # the loopback also counts whatever else this machine does
                    found = Measured(found.pictures_per_s, found.split, {})
                figures[kind][number].append(found)
                shown = f"round {turn + 1}: {named(number, kind)}: {found.pictures_per_s:.4g} pictures/s"
                print(shown, file=sys.stderr, flush=True)
                shutil.rmtree(home)
    return figures


@contextlib.contextmanager
def _hosts(folder: Path, count: int) -> Iterator[list[Host | Here]]:
    """So many hosts, which are gone afterwards; none makes none."""
    if count == 0:
        yield []
        return
    (folder / "hosts").mkdir()
    with network(folder / "hosts", [f"host-{number}" for number in range(count)]) as hosts:
        yield list(hosts.values())


def why_none_now() -> str | None:
    """Why hosts cannot be made here at this moment; None where they can."""
    why = why_no_hosts()
    if why is not None:
        return why
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name in (line.split()[0] for line in listed.splitlines() if line.startswith("reco-")):
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        if pids.stdout.strip():
            return f"hosts of another run are up ({name} has processes), and there is one network of them on a machine"
    return None


def named(number: int, kind: str) -> str:
    return f"{number} {kind if number > 1 else kind[:-1]}"


def speed_table(figures: Figures) -> str:
    """Median and range of the rounds as Markdown; parts of a step's time are medians."""
    lines = [
        f"| | pictures/s | speed-up | {' | '.join(f'{phase}, %' for phase in PHASES)} |",
        "|---" * (3 + len(PHASES)) + "|",
    ]
    for kind, by_number in figures.items():
        for number, runs in by_number.items():
            speeds = [each.pictures_per_s for each in runs]
            alone = [each.pictures_per_s for each in by_number.get(1, [])]
            gains = [speed / one for speed, one in zip(speeds, alone, strict=False)]
            parts = [f"{100 * statistics.median(each.split[phase] for each in runs):.1f}" for phase in PHASES]
            lines.append(
                f"| {' | '.join([named(number, kind), spread(speeds), spread(gains) if gains else '', *parts])} |"
            )
    return "\n".join(lines)


def bytes_table(exchange: Exchange, figures: Figures, *, seed: int, windows: int) -> str:
    """What a rank sends in a step, in kB (1000 bytes) as Markdown: expected, by the permutations, counted."""
    steps = range(WINDOW, WINDOW * (1 + windows))
    lines = ["| W | collective | formula | by the permutations | counted | counted / formula |", "|---" * 6 + "|"]
    numbers = {number for by_number in figures.values() for number in by_number} - {1}
    for number in sorted(numbers):
        expected = exchange.sent(number)
        moved = leaving(seed=seed, batch=exchange.batch, ranks=number, steps=steps) * exchange.picture_bytes
        exact = {**expected, "key shuffle": moved}
        runs = figures.get("hosts", {}).get(number, [])
        for name in (*COLLECTIVES, "all"):
            formula, by_steps = (sum(of.values()) if name == "all" else of[name] for of in (expected, exact))
            counted = [sum(each.sent.values()) if name == "all" else each.sent[name] for each in runs]
            shown = spread([each / 1e3 for each in counted], 5) if counted else ""
            ratio = f"{statistics.median(counted) / formula:.3f}" if counted else ""
            lines.append(f"| {number} | {name} | {formula / 1e3:.1f} | {by_steps / 1e3:.1f} | {shown} | {ratio} |")
        whole = exchange.sent_by_all_gather(number)
        lines.append(f"| {number} | key shuffle by all-gather, as MoCo's | {whole / 1e3:.1f} | | | |")
    return "\n".join(lines)


def default_spec(folder: Path) -> Path:
    """A spec whose collectives take part of a step worth measuring, and pictures for it."""
    pictures = write_shards(folder / "pictures", samples=1024, shard_samples=64)
    file = folder / "default.yaml"
    file.write_text(
        tiny_spec(
            pictures,
            data__image_size=32,
            encoder__name="resnet18",
            encoder__width=32,
            method__projection_dim=128,
            method__queue_size=512,
            train__global_batch_size=64,
            train__epochs=1000,
        )
    )
    return file


def describe(spec: RunSpec, exchange: Exchange, arguments: argparse.Namespace) -> str:
    cores, encoder = os.cpu_count(), spec.encoder
    return (
        f"{machine()}, gloo, one compute thread a rank. All ranks and hosts share the {cores} cores, with a loader "
        f"beside each rank: no speed-up beyond {cores} is to be expected.\n\n{encoder.name} ({encoder.stem} stem, "
        f"width {encoder.width}; {exchange.parameters:,} parameters with the head) at {exchange.image_size} pixels, "
        f"global batch {exchange.batch} in {spec.method.groups} groups, features of {exchange.features}, views per "
        f"key: {exchange.views}. Median (range) of {arguments.rounds} round(s) of {WINDOW * arguments.windows} steps."
    )


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"


def main() -> None:
    arguments = parse()
    if arguments.home:
        one_rank(Path(arguments.home), arguments.until)
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell in the background has them ignored
        signal.signal(number, signal.default_int_handler)
    kinds, why = list(arguments.kinds), None
    if "hosts" in kinds and (why := why_none_now()) is not None:
        kinds.remove("hosts")
        why = f"NO HOSTS, so nothing is counted: {why}."
        print(why, file=sys.stderr, flush=True)
        if not kinds:
            raise SystemExit(1)
    folder = Path(tempfile.mkdtemp(prefix="reco-scaling-", dir="/var/tmp"))
    try:
        file = Path(arguments.spec) if arguments.spec else default_spec(folder)
        specs = {
            number: load_spec(file, [*arguments.overrides, *FIXED, f"scale.workers={number}"])
            for number in arguments.counts
        }
        figures = measure(specs, kinds, folder, rounds=arguments.rounds, windows=arguments.windows)
    except RecoError as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(specs, figures, arguments, why)


def report(specs: Mapping[int, RunSpec], figures: Figures, arguments: argparse.Namespace, why: str | None) -> None:
    """Print both tables, and why there are no hosts where there are none; write the figures where they are wanted."""
    spec = next(iter(specs.values()))
    exchange = Exchange.of(spec)
    print(f"{describe(spec, exchange, arguments)}\n\n{speed_table(figures)}\n\nSent per rank and step, kB:\n")
    print(bytes_table(exchange, figures, seed=spec.train.seed, windows=arguments.windows))
    if why is not None:
        print(f"\n{why}")
    if not arguments.json:
        return
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "exchange": asdict(exchange),
        "steps_per_round": WINDOW * arguments.windows,
        "rounds": {
            kind: {number: [asdict(each) for each in runs] for number, runs in by_number.items()}
            for kind, by_number in figures.items()
        },
        "formula_bytes": {number: exchange.sent(number) for number in specs},
        "all_gather_shuffle_bytes": {number: exchange.sent_by_all_gather(number) for number in specs},
        "no_hosts": why,
    }
    Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", help="a run's spec; a small one with pictures of its own is the default")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="how many ranks and hosts")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=2, help=f"measured parts of a run, {WINDOW} steps each")
    parser.add_argument("--json", help="write the figures there too")
    parser.add_argument("--home", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
