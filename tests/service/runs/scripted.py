"""A backend whose jobs live as a test says, by a clock that it moves, and calls that can be made to kill the caller."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from jobs.job_folder import SUBMISSION_VARIABLE, JobFolder, Outcome
from jobs.storage import StoredObject, UnreachableError
from jobs.storage.local import LocalStorage
from service.backends.base import Answer, Backend, BackendError, Job, LogPart, Status, UnreachableBackendError
from service.runs.database import Clock
from service.runs.leases import Lease
from service.runs.records import Run
from service.runs.states import Condition, Signal
from service.runs.store import RunStore

FAILED: Outcome = {"status": "failed", "exit_code": 1, "error": "It broke.", "hint": ""}
SUCCEEDED: Outcome = {"status": "succeeded", "exit_code": 0}
STOPPED: Outcome = {"status": "stopped", "exit_code": 130}


class KilledError(BaseException):
    """The process died there."""


@dataclass
class Fuse:
    """Counts calls that change something outside the process, and kills it before or after some had their effect.

    Attributes:
        kills: Whether it dies at the call of that number.
        calls: What was called.
    """

    kills: Callable[[int], bool] = lambda _: False
    calls: list[str] = field(default_factory=list)

    def __call__(self, what: str) -> None:
        self.calls.append(what)
        if self.kills(len(self.calls) - 1):
            raise KilledError(f"{what}, call {len(self.calls) - 1}")


@dataclass(frozen=True)
class Life:
    """How a job goes.

    Attributes:
        outcome: It leaves this in its folder at the end; None leaves nothing.
        exit_code: Its process's; that of the outcome by default.
        pending_s: Until it runs.
        running_s: From then to its end, unless it is told to stop.
        step: It leaves a checkpoint of this step; 0 leaves none.
        deaf: It does not look whether its folder asks it to stop.
        vanishes: The backend forgets it at the end.
        lingers_s: After its outcome, until its process leaves.
        dies_s: After the backend was asked to end it, until it has ended.
    """

    outcome: Outcome | None = field(default_factory=lambda: SUCCEEDED)
    exit_code: int | None = None
    pending_s: float = 5.0
    running_s: float = 60.0
    step: int = 0
    deaf: bool = False
    vanishes: bool = False
    lingers_s: float = 0.0
    dies_s: float = 0.0


@dataclass
class ScriptedJob:
    """A job, as far as it is."""

    job: Job
    life: Life
    folder: JobFolder
    since: datetime
    status: Status = "pending"
    exit_code: int | None = None
    told: datetime | None = None
    asked: datetime | None = None
    log: bytes = b""


class ScriptedBackend(Backend):
    """Jobs in memory. `advance` lets them live: they read and write their run's folder as real ones do.

    Args:
        clock: What time it is.
        folder: The folder of the run that a submission is of.
        life: How a submission's job goes.
        fuse: Told of every call that changes something, before and after its effect.
    """

    name = "scripted"

    def __init__(
        self, clock: Clock, folder: Callable[[str], JobFolder], life: Callable[[str], Life], fuse: Fuse
    ) -> None:
        self.clock, self.folder, self.life, self.fuse = clock, folder, life, fuse
        self.jobs: dict[str, ScriptedJob] = {}
        self.starts: list[str] = []
        self.stops: list[str] = []
        self.reachable = True
        self.refuses = False
        self.full = False
        self.looks = 0
        self.where = "scripted:here"

    @property
    def place(self) -> str:
        return self.where

    def submit(self, submission_id: str, job: Job) -> bool:
        self.fuse("submit")
        self._answer()
        if self.full:
            raise UnreachableBackendError("the quota is used up.")
        new = submission_id not in self.jobs
        if new:
            self.starts.append(submission_id)
            folder, life = self.folder(submission_id), self.life(submission_id)
            self.jobs[submission_id] = ScriptedJob(job, life, folder, self.clock())
        self.fuse("submitted")
        return new

    def look(self, submission_id: str) -> Answer:
        self.looks += 1
        self._answer()
        found = self.jobs.get(submission_id)
        return Answer("absent") if found is None else Answer(found.status, found.exit_code)

    def stop(self, submission_id: str) -> None:
        self.fuse("stop")
        self._answer()
        self.stops.append(submission_id)
        found = self.jobs.get(submission_id)
        if found is not None and found.asked is None:
            found.asked = self.clock()
            self._die(found)
        self.fuse("stopped")

    def log(self, submission_id: str, offset: int) -> LogPart:
        self._answer()
        found = self.jobs.get(submission_id)
        data = b"" if found is None else found.log[offset : offset + 300]
        data = data[: data.rfind(b"\n") + 1]
        return LogPart(data, offset + len(data))

    def advance(self) -> None:
        """Let every job do what it does by now."""
        for submission_id, job in self.jobs.items():
            self._advance(submission_id, job)

    def say(self, submission_id: str, text: str) -> None:
        """Have a job print."""
        self.jobs[submission_id].log += text.encode()

    def _die(self, job: ScriptedJob) -> None:
        if job.asked is None or job.status not in ("pending", "running"):
            return
        if (self.clock() - job.asked).total_seconds() >= job.life.dies_s:
            job.status, job.exit_code = ("absent", None) if job.life.vanishes else ("stopped", -15)

    def _advance(self, submission_id: str, job: ScriptedJob) -> None:
        self._die(job)
        age = (self.clock() - job.since).total_seconds() - job.life.pending_s
        if job.status == "pending" and age >= 0:
            job.status = "running"
            job.folder.begin_attempt()
            self.say(submission_id, f"{submission_id} begins\n")
        if job.status != "running":
            return
        self.say(submission_id, f"{submission_id} at {age:.0f} s\n")
        stopped = job.folder.stop_requested() and not job.life.deaf
        if job.told is None and (stopped or age >= job.life.running_s):
            job.told = self.clock()
            if job.life.step:
                write_checkpoint(job.folder, job.life.step)
            outcome = STOPPED if stopped else job.life.outcome
            job.exit_code = job.life.exit_code
            if outcome is not None:
                signed: Outcome = {**outcome, "submission": job.job.environment[SUBMISSION_VARIABLE]}
                job.folder.write_outcome(signed)
                job.exit_code = outcome["exit_code"] if job.exit_code is None else job.exit_code
        if job.told is not None and (self.clock() - job.told).total_seconds() >= job.life.lingers_s:
            job.status = "succeeded" if job.exit_code == 0 else "failed"
            self.say(submission_id, f"{submission_id} ends\n")
            if job.life.vanishes:
                job.status, job.exit_code = "absent", None

    def _answer(self) -> None:
        if not self.reachable:
            raise UnreachableBackendError("nobody answers at scripted.")
        if self.refuses:
            raise BackendError("the token has run out.")


class FusedStore(RunStore):
    """The store, in a process that may die before or after each change."""

    fuse: Fuse

    def move(self, run: Run, signal: Signal, **told: object) -> Run:  # type: ignore[override]
        self.fuse(f"move {signal}")
        after = super().move(run, signal, **told)  # type: ignore[arg-type]
        self.fuse(f"moved {signal}")
        return after

    def set_condition(
        self, run_id: str, condition: Condition, *, holds: bool, words: str, lease: Lease | None = None
    ) -> Run:
        self.fuse(f"set {condition}")
        after = super().set_condition(run_id, condition, holds=holds, words=words, lease=lease)
        self.fuse(f"have set {condition}")
        return after


class FusedStorage(LocalStorage):
    """A run's folder, likewise; it may also be away."""

    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root)
        self.fuse = fuse
        self.reachable = True

    def stat(self, key: str) -> StoredObject:
        if not self.reachable:
            raise UnreachableError("No answer from the storage.")
        return super().stat(key)

    def write(self, key: str, data: bytes) -> None:
        self.fuse(f"write {key}")
        super().write(key, data)
        self.fuse(f"wrote {key}")

    def create(self, key: str, data: bytes) -> bool:
        self.fuse(f"create {key}")
        new = super().create(key, data)
        self.fuse(f"created {key}")
        return new


def write_checkpoint(folder: JobFolder, step: int) -> None:
    """Leave what says that there is a checkpoint."""
    manifest = {"step": step, "size": 1, "sha256": "0", "spec_hash": "abc", "dataset_hash": "def"}
    folder.storage.write(f"checkpoints/step-{step:012d}/manifest.json", json.dumps(manifest).encode())
