"""The folder of one run, on disk or in S3: what it is, how far it is, what it measured, what it ended with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from jobs.errors import RecoError, UserError
from jobs.job_folder import JobFolder, Outcome, error_of, failed
from jobs.spec import RunSpec, parse_spec, to_yaml

Pause = Literal["drain", "resize"]
"""Why workers are to save and return though the run goes on: a host is about to leave, or more workers would fit."""


class Probe(TypedDict):
    """What the encoder was worth after a step."""

    step: int
    metrics: dict[str, float]


class Progress(TypedDict, total=False):
    """How far a run is; written by its first rank, read by whoever watches.

    `phase` is starting, waiting for hosts, training, probing, finishing, done or stopped; `eta_s` is in seconds,
    `memory_gb` in 10⁹ bytes, `data_wait` a fraction of the time, `plan` a line that is there while a run is starting,
    `probes` what the attempt was judged to be worth so far.
    """

    phase: str
    step: int
    total_steps: int
    epoch: float
    epochs: int
    metrics: dict[str, float]
    pictures_per_s: float
    data_wait: float
    memory_gb: float
    eta_s: float
    health: str
    resumed_from: int
    plan: str
    probes: list[Probe]


class Record(TypedDict):
    """What one logging step measured."""

    step: int
    pictures: int
    metrics: dict[str, float]


class Stall(TypedDict):
    """A rank that made no progress: where it stood, and the stacks of its threads."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    seconds: float
    stacks: str


@dataclass(frozen=True)
class Origin:
    """The checkpoint of another run that a fork begins with.

    Attributes:
        url: The other run's folder.
        run_id: The other run.
        step: Its steps until then.
        sha256: Of that checkpoint's state.
        weights: Key of the copy of its encoders in the fork's own folder.
        weights_sha256: Of that copy.
    """

    url: str
    run_id: str
    step: int
    sha256: str
    weights: str
    weights_sha256: str

    @property
    def lineage(self) -> dict[str, str]:
        """As the attempts, the run in MLflow and the registered encoder note it."""
        return {"forked_from": self.run_id, "forked_step": str(self.step), "forked_sha256": self.sha256}


class RunFolder(JobFolder):
    """Names and reads what a run keeps.

    Args:
        url: Folder or S3 prefix that holds the runs.
        run_id: The run.
        patience_s: As `open_storage` has it.

    Raises:
        UserError: If the id cannot be the name of a folder, a log and a tag.
    """

    kind = "run"
    of_an_attempt = ("outcome.json", "failure.json", "stop", "pause", "progress.json")

    def __init__(self, url: str, run_id: str, *, patience_s: float | None = None) -> None:
        super().__init__(url, run_id, patience_s=patience_s)
        self.run_id = run_id

    def claim(self, spec: RunSpec) -> None:
        """Store the spec of a new run, or check that a run that exists has the same.

        A run whose workers never began, since something was wrong with its spec or its surroundings, is as good as new.

        Raises:
            UserError: If the run exists with another experiment in it.
        """
        if self.storage.create("spec.yaml", to_yaml(spec).encode()):
            return
        before = self.spec()
        if before.hash != spec.hash and any(self.storage.list("attempts/")):
            raise UserError(
                f"run {self.run_id} exists with another spec (hash {before.hash}, now {spec.hash}).",
                hint="Continue it with the spec it was started with, or start a new run under another --run-id.",
            )
        self.storage.write("spec.yaml", to_yaml(spec).encode())  # name, scale, checkpoint or register may differ

    def spec(self) -> RunSpec:
        """The spec the run was started with."""
        return parse_spec(self.storage.read("spec.yaml").decode(), source=f"{self.url}/spec.yaml")

    def keep_origin(self, origin: Origin) -> Origin:
        """Note what the run begins with; returns what was noted first."""
        if self.storage.create("origin.json", json.dumps(asdict(origin), indent=1).encode()):
            return origin
        return self.origin() or origin

    def origin(self) -> Origin | None:
        """What the run begins with, or None where it is no fork."""
        origin = self._json("origin.json")
        return None if origin is None else Origin(**origin)

    def write_progress(self, progress: Progress) -> None:
        """Say how far the run is."""
        self.storage.write("progress.json", json.dumps(progress).encode())

    def progress(self) -> Progress | None:
        """How far the run is, or None before it said anything."""
        progress: Progress | None = self._json("progress.json")
        return progress

    def write_records(self, records: list[Record], *, step: int) -> None:
        """Keep the records since the last checkpoint under the step of the new one."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        self.storage.write(f"metrics/step-{step:012d}.jsonl", lines.encode())

    def records(self, *, up_to: int | None = None) -> list[Record]:
        """All records kept, in order of steps.

        Args:
            up_to: Leave out what a later attempt will measure again: records after this step.
        """
        found: dict[int, Record] = {}
        for stored in self.storage.list("metrics/"):
            for line in self.storage.read(stored.key).decode().splitlines():
                record: Record = json.loads(line)
                found[record["step"]] = record
        return [found[step] for step in sorted(found) if up_to is None or step <= up_to]

    def attempts(self) -> list[dict[str, Any]]:
        """What each attempt noted when it began, the latest last: where, when, with how many workers, on what."""
        return [json.loads(self.storage.read(stored.key)) for stored in self.storage.list("attempts/")]

    def write_quarantine(self, pictures: list[dict[str, Any]], *, epoch: int, rank: int) -> None:
        """Keep the pictures that one rank could not use in an epoch, with those an earlier attempt kept."""
        key = f"quarantine/epoch-{epoch:06d}-rank-{rank:05d}.jsonl"
        before = self._lines(key) if self.storage.exists(key) else []
        known = {(each["step"], each["sample_id"]) for each in pictures}
        kept = [each for each in before if (each["step"], each["sample_id"]) not in known] + pictures
        self.storage.write(key, "".join(json.dumps(each) + "\n" for each in kept).encode())

    def quarantine(self) -> list[dict[str, Any]]:
        """Every picture that could not be used, once, as it was first met: sample_id, key, reason, step, epoch, by."""
        found: dict[int, dict[str, Any]] = {}
        for stored in self.storage.list("quarantine/"):
            for each in self._lines(stored.key):
                found.setdefault(each["sample_id"], each)
        return list(found.values())

    def quarantine_of(self, epoch: int) -> list[dict[str, Any]]:
        """What the ranks of all attempts met in one epoch; a picture may be there twice."""
        stored = self.storage.list(f"quarantine/epoch-{epoch:06d}-")
        return [each for file in stored for each in self._lines(file.key)]

    def _lines(self, key: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.storage.read(key).decode().splitlines()]

    def write_result(self, result: dict[str, float]) -> None:
        """Keep what the encoder was judged to be worth at the end."""
        self.storage.write("result.json", json.dumps(result, indent=1).encode())

    def result(self) -> dict[str, float] | None:
        """What the encoder was judged to be worth, or None while training has not ended."""
        result: dict[str, float] | None = self._json("result.json")
        return result

    def write_failure(self, error: RecoError) -> None:
        """Keep the error that ended this attempt for good: restarting its workers would only meet it again."""
        self.storage.write("failure.json", json.dumps(failed(error)).encode())

    def failure(self) -> RecoError | None:
        """The error that ended this attempt for good, if one did."""
        failure: Outcome | None = self._json("failure.json")
        return None if failure is None else error_of(failure)

    def write_stall(self, stall: Stall) -> None:
        """Keep where a rank stood when it made no progress."""
        key = f"stalls/step-{stall['step']:012d}-rank-{stall['rank']:05d}-{stall['host']}-{stall['pid']}.json"
        self.storage.write(key, json.dumps(stall, indent=1).encode())

    def stalls(self) -> list[Stall]:
        """Every stall of the run, in order of steps."""
        return [json.loads(self.storage.read(stored.key)) for stored in self.storage.list("stalls/")]

    def request_pause(self, reason: Pause) -> None:
        """Ask the workers to save and return, to be placed anew."""
        self.storage.write("pause", reason.encode())

    def pause_requested(self) -> bool:
        """Whether the workers are asked to save and return."""
        return self.storage.exists("pause")

    def clear_pause(self) -> None:
        """The workers have returned."""
        if self.pause_requested():
            self.storage.delete("pause")
