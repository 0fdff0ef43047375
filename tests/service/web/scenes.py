"""A service with runs in every state, their folders as real runs leave them, and who may look at it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.run_folder import Probe, Progress, Record, RunFolder
from jobs.shards.dataset import open_dataset
from jobs.sweeps.folder import SweepFolder
from service.contract.messages import Identity, Submission
from service.control.control import Control
from service.runs.logs import RunLog
from service.runs.records import Ending, Run
from service.runs.retry import Cause
from service.runs.schema import JsonObject
from service.runs.states import Signal
from service.settings import Settings
from tests.pictures import write_shards

PICTURES = 50_000
BATCH = 256
ANN = Identity(owner="ann", role="admin", version="0")

SPEC = """\
name: {name}
data: {{train: {data}, image_size: 32}}
encoder: {{name: resnet18, stem: cifar, width: 64}}
method: {{projection_dim: 128, queue_size: 4096, temperature: 0.1, groups: 2}}
optimizer: {{lr: 0.06}}
train: {{epochs: {epochs}, warmup_epochs: 1, global_batch_size: 256, precision: bf16}}
scale: {{workers: 2, gpus_per_worker: 0, cpus_per_worker: 1}}
register: {{model: photos-encoder}}
"""
SWEEP = (
    "name: {name}\nbase: base.yaml\ntrials: 16\nbudget: {{epochs: 12}}\nscheduler: {{name: asha, grace_epochs: 3}}\n"
)


class Clock:
    """A clock that a test moves."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def set_back(self, **ago: float) -> None:
        self.at = datetime.now(UTC) - timedelta(**ago)


@dataclass
class Scene:
    """A service, and what brings its runs along.

    Attributes:
        control: The service.
        clock: Its clock.
        data: A folder with indexed shards.
    """

    control: Control
    clock: Clock
    data: Path

    def token(self, role: str = "admin", owner: str = "ann", project: str | None = None) -> str:
        """The secret of a new token."""
        return self.control.tokens_store.issue(name="test", owner=owner, role=role, project=project)[0]

    def submit(self, run_id: str, *, name: str, owner: str = "ann", project: str = "default", epochs: int = 100) -> Run:
        """Store a run."""
        spec = SPEC.format(name=name, data=self.data, epochs=epochs)
        who = ANN.model_copy(update={"owner": owner})
        self.control.service(who).runs.submit(Submission(spec=spec, run_id=run_id, project=project))
        return self.control.store.get(run_id)

    def sweep(self, sweep_id: str, *, name: str) -> Run:
        """Store a sweep."""
        base = SPEC.format(name="base", data=self.data, epochs=12)
        probe = f"data: {{train: {self.data}, probe: {{train: {self.data}, valid: {self.data}}}, image_size: 32}}\n"
        base = "\n".join(probe.strip() if line.startswith("data:") else line for line in base.splitlines())
        submission = Submission(spec=SWEEP.format(name=name), base=base, kind="sweep", run_id=sweep_id)
        self.control.service(ANN).runs.submit(submission)
        return self.control.store.get(sweep_id)

    def move(self, run_id: str, *signals: Signal, words: str = "", cause: Cause | None = None, step: int = 0) -> Run:
        """Let things happen to a run, a minute apart; the words and the cause are of the last one."""
        run = self.control.store.get(run_id)
        for signal in signals:
            last = signal is signals[-1]
            number = run.attempts + (signal is Signal.BEGIN)
            run = self.control.store.move(
                run,
                signal,
                words=words if last and words else _WORDS[signal].format(attempt=number),
                actor="leader" if signal is not Signal.STOP else "ann",
                backend="ray" if signal is Signal.BEGIN else "",
                ending=Ending(cause, 1 if cause else 0, step) if last and signal in _ENDS else None,
                due=datetime.now(UTC) + timedelta(seconds=40) if signal is Signal.LOST else None,
            )
            self.clock.at += timedelta(minutes=1)
        return run

    def start(self, run_id: str) -> Run:
        """Let a run that is queued begin to train."""
        return self.move(run_id, Signal.BEGIN, Signal.ACCEPTED, Signal.RUNNING)

    def train(
        self, run_id: str, *, upto: float, epochs: int = 100, seed: int = 0, health: str = "healthy", best: float = 71.0
    ) -> RunFolder:
        """Leave in a run's folder what it leaves having trained a part of its epochs, and tell the store."""
        folder = RunFolder(self.control.store.get(run_id).storage, run_id)
        total = epochs * PICTURES // BATCH
        records = measured(total, upto, epochs=epochs, seed=seed, best=best)
        last = records[-1]["step"]
        folder.write_records(records, step=last)
        for step in range(last // 3, last + 1, max(last // 3, 1)):
            state = bytes(90_000 + step)
            manifest = {"step": step, "size": len(state), "sha256": "0" * 64, "spec_hash": "", "dataset_hash": ""}
            folder.storage.write(f"checkpoints/step-{step:012d}/state.pt", state)
            folder.storage.write(f"checkpoints/step-{step:012d}/manifest.json", json.dumps(manifest).encode())
        self.tell(run_id, progress_at(records, total, epochs, health))
        return folder

    def tell(self, run_id: str, progress: Progress) -> None:
        """What the leader heard of a run last."""
        told: JsonObject = json.loads(json.dumps(progress))
        self.control.store.save_progress(run_id, told)

    def log(self, run_id: str, lines: Sequence[str], *, attempt: int = 1, complete: bool = False) -> None:
        """Add lines to the log of an attempt."""
        log = RunLog(RunFolder(self.control.store.get(run_id).storage, run_id).storage, attempt)
        log.append(log.end(), "".join(f"{line}\n" for line in lines).encode())
        if complete:
            log.complete()


_ENDS = (Signal.LOST, Signal.FAILED, Signal.SUCCEEDED, Signal.STOPPED)
_WORDS: Mapping[Signal, str] = {
    Signal.BEGIN: "Attempt {attempt} begins.",
    Signal.ACCEPTED: "Ray has the job of attempt {attempt}.",
    Signal.RUNNING: "Attempt {attempt} runs.",
    Signal.SUCCEEDED: "The encoder is there: k-NN 71.3 % on valid.",
    Signal.STOPPED: "It has saved and ended, as it was asked to.",
    Signal.LOST: "Its host was taken away.",
    Signal.FAILED: "It ended, and trying again would not mend it.",
    Signal.STOP: "ann asked it to stop.",
}


def measured(total: int, upto: float, *, epochs: int, seed: int, best: float) -> list[Record]:
    """Records as a run writes them: a loss that falls, an encoder that gets better, some noise."""
    draw = random.Random(seed)
    every = max(total // 300, 1)
    records, probed = [], -1
    for step in range(every, int(total * upto) + 1, every):
        part = step / total
        fall = math.exp(-4 * part)
        rise = 1 - math.exp(-5 * part)
        contrast = 4.9 + 3.3 * fall + draw.gauss(0, 0.06)
        regional = 4.2 + 1.5 * fall + draw.gauss(0, 0.05)
        local = 2.1 + 1.9 * fall + draw.gauss(0, 0.06)
        metrics = {
            "train/loss": contrast + regional + local,
            "train/contrast": contrast,
            "train/global_relation": regional,
            "train/local_relation": local,
            "train/learning_rate": 0.03 * (1 + math.cos(math.pi * part)) * min(1.0, part * epochs),
            "time/pictures_per_s": 1520 + draw.gauss(0, 25),
            "time/data_wait": abs(draw.gauss(0.012, 0.006)),
            "time/saving": 0.002,
            "health/feature_std": 0.55 + 0.35 * rise + draw.gauss(0, 0.01),
            "health/positive_negative_gap": 0.15 + 0.4 * rise + draw.gauss(0, 0.01),
            "health/alignment": 0.8 - 0.4 * rise + draw.gauss(0, 0.01),
            "health/uniformity": -0.9 - 1.8 * rise + draw.gauss(0, 0.03),
            "health/gradient_norm": 0.9 + 1.8 * fall + abs(draw.gauss(0, 0.12)),
            "health/rank_me": 24 + 60 * rise + draw.gauss(0, 1),
        }
        epoch = int(part * epochs)
        if epoch // 5 != probed:
            probed = epoch // 5
            metrics["valid/knn"] = 30 + (best - 30) * rise + draw.gauss(0, 0.4)
            metrics["valid/rank_me"] = 60 + 220 * rise + draw.gauss(0, 3)
        records.append(Record(step=step, pictures=step * BATCH, metrics=metrics))
    return records


def progress_at(records: Sequence[Record], total: int, epochs: int, health: str) -> Progress:
    """The progress of a run that has just written these records."""
    last, part = records[-1], records[-1]["step"] / total
    probes = [
        Probe(step=each["step"], metrics={"valid/knn": each["metrics"]["valid/knn"]})
        for each in records
        if "valid/knn" in each["metrics"]
    ]
    return Progress(
        phase="training",
        step=last["step"],
        total_steps=total,
        epoch=round(part * epochs, 1),
        epochs=epochs,
        metrics=last["metrics"],
        pictures_per_s=last["metrics"]["time/pictures_per_s"],
        data_wait=last["metrics"]["time/data_wait"],
        memory_gb=3.4,
        eta_s=(total - last["step"]) * BATCH / 1520,
        health=health,
        resumed_from=0,
        probes=probes,
    )


def search(scene: Scene, sweep_id: str, trials: int, *, seed: int = 0, over: bool = False) -> None:
    """Leave the ledger of a sweep as it is after so many trials, the last of which goes on unless it is over."""
    draw = random.Random(seed)
    folder = SweepFolder(scene.control.store.get(sweep_id).storage, sweep_id)
    events: list[dict[str, object]] = []
    for number in range(trials):
        lean = min(number / 10, 1)
        values = {
            "method.global_relation.weight": 2 ** draw.uniform(-2 + 2 * lean, 2),
            "method.local_relation.weight": 2 ** draw.uniform(-2, 2 - lean),
            "method.temperature": math.exp(draw.uniform(math.log(0.05), math.log(0.5 - 0.3 * lean))),
            "method.global_relation.student_temperature": math.exp(draw.uniform(math.log(0.05), math.log(0.3))),
            "method.global_relation.teacher_temperature": math.exp(draw.uniform(math.log(0.02), math.log(0.05))),
        }
        events.append({"event": "trial", "trial": number, "values": values, "at": 0.0})
        if number == 5:
            reason = "the loss is no number at step 40"
            events.append({"event": "end", "trial": number, "status": "failed", "objective": None, "reason": reason})
            continue
        worth = 44 - 5 * abs(math.log(values["method.temperature"] / 0.12)) + 2 * lean + draw.gauss(0, 0.8)
        early = worth < 42.5 and number > 1
        reached = 3 if early else 12
        for epoch in (3, 6, 12)[: 1 if early else 3]:
            objective = worth - 0.7 * (12 - epoch) + (4 if early else 0)
            goes_on = epoch < reached
            events.append(
                {"event": "report", "trial": number, "epoch": epoch, "objective": objective, "goes_on": goes_on}
            )
            if number == trials - 1 and not over:
                break
        if number < trials - 1 or over:
            status = "stopped early" if early else "finished"
            objective = worth - 2.3 if early else worth
            events.append({"event": "end", "trial": number, "status": status, "objective": objective, "epoch": reached})
    for number, event in enumerate(events):
        folder.storage.write(f"ledger/{number:08d}.json", json.dumps({**event, "at": float(number)}).encode())


def make_data(folder: Path) -> Path:
    """A small data set with its index."""
    open_dataset(str(write_shards(folder, samples=80)))
    return folder


def open_scene(home: Path, data: Path) -> Scene:
    """A service without runs."""
    clock = Clock(datetime.now(UTC) - timedelta(hours=40))
    control = Control(Settings.from_environment({"RECO_HOME": str(home)}), clock=clock)
    return Scene(control, clock, data)
