"""What happened in a sweep, in order: one object for each event, never changed, never removed.

Ray Tune keeps its state in pickles beside a study in memory, and loses one or the other with its process. Here every
decision is stored before it is acted upon, so that a sweep can be taken up by anyone who reads what is written.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from jobs.checkpoints.fence import Fence, FencedError
from jobs.storage import Storage

_PREFIX = "ledger/"
_READERS = 16

Status = Literal["running", "finished", "stopped early", "failed"]


class Event(TypedDict, total=False):
    """One line of the ledger; `event` says which of the others it has.

    `trial`: a configuration was chosen (values, by path). `report`: a trial was judged (epoch, objective), and goes on
    or not. `end`: it is over (status, objective, reason; at the last epoch seeds, the objective of each).
    """

    event: Literal["trial", "report", "end"]
    at: float
    trial: int
    values: dict[str, Any]
    epoch: int
    objective: float | None
    goes_on: bool
    status: Status
    reason: str
    seeds: list[float]


@dataclass
class Trial:
    """One configuration and what became of it.

    Attributes:
        number: From 0, in the order they were chosen.
        values: Of the options that are varied, by path.
        began: When it was chosen, in seconds since the epoch.
        points: Objective by epoch, as it was judged.
        status: What it is doing, or how it ended.
        stopping: Whether it was told to stop at its last rung.
        objective: What it counts for: the mean over its seeds where it came to the end, else its last point.
        seeds: Objective of each seed, where it came to the end.
        reason: Why it failed.
        ended: When, in seconds since the epoch; None while it has not.
    """

    number: int
    values: dict[str, Any]
    began: float
    points: dict[int, float] = field(default_factory=dict)
    status: Status = "running"
    stopping: bool = False
    objective: float | None = None
    seeds: list[float] = field(default_factory=list)
    reason: str = ""
    ended: float | None = None

    @property
    def epoch(self) -> int:
        """The last epoch it was judged at."""
        return max(self.points, default=0)


class Ledger:
    """The events of a sweep.

    Args:
        storage: The sweep's folder.
        fence: This process's right to write; None where it only reads.
    """

    def __init__(self, storage: Storage, fence: Fence | None = None) -> None:
        self._storage = storage
        self._fence = fence
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """All events so far; those that were read before are not read again."""
        keys = [stored.key for stored in self._storage.list(_PREFIX)][len(self._events) :]
        if keys:
            with ThreadPoolExecutor(_READERS) as pool:
                self._events += [json.loads(data) for data in pool.map(self._storage.read, keys)]
        return list(self._events)

    def append(self, event: Event) -> Event:
        """Write the next event, stamped with the time; returns it.

        Raises:
            FencedError: Another process has taken the sweep over.
        """
        if self._fence is None:
            raise ValueError("a ledger without a fence is read only")
        self._fence.check()
        stamped: Event = {**event, "at": time.time()}
        key = f"{_PREFIX}{len(self._events):08d}.json"
        if not self._storage.create(key, json.dumps(stamped).encode()):
            raise FencedError(
                f"{self._storage.url}/{key} was written by another process: this one stops.",
                hint="One process at a time carries out a sweep; `reco sweep show` follows it.",
            )
        self._events.append(stamped)
        return stamped


def trials_of(events: list[Event]) -> list[Trial]:
    """What became of each configuration, by number."""
    trials: dict[int, Trial] = {}
    for event in events:
        apply(event, trials)
    return [trials[number] for number in sorted(trials)]


def apply(event: Event, trials: dict[int, Trial]) -> Trial:
    """Take an event into account; returns the trial it is of."""
    number = event["trial"]
    if event["event"] == "trial":
        trials[number] = Trial(number, event["values"], event["at"])
        return trials[number]
    trial = trials[number]
    if event["event"] == "report":
        objective = event["objective"]
        assert objective is not None
        trial.points[event["epoch"]] = trial.objective = objective
        trial.stopping = not event["goes_on"]
        return trial
    trial.status, trial.objective, trial.ended = event["status"], event["objective"], event["at"]
    if trial.objective is not None and "epoch" in event:
        trial.points[event["epoch"]] = trial.objective
    trial.reason, trial.seeds = event.get("reason", ""), event.get("seeds", [])
    return trial


def best_of(trials: list[Trial], *, mode: str) -> Trial | None:
    """The best of those that came to their end; None where none has."""
    return next((trial for trial in ranked(trials, mode=mode) if trial.status == "finished"), None)


def ranked(trials: list[Trial], *, mode: str) -> list[Trial]:
    """The best first: those that came to the end by their objective, then the others by how far they came."""
    sign = 1.0 if mode == "max" else -1.0

    def worth(trial: Trial) -> tuple[int, int, float]:
        objective = -float("inf") if trial.objective is None else sign * trial.objective
        return (trial.status == "finished", trial.epoch if trial.status != "failed" else -1, objective)

    return sorted(trials, key=worth, reverse=True)
