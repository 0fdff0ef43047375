"""What benchmarks of the service share: a store that is as full as that of a team which trained for a year."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from jobs.spec import parse_spec, to_yaml
from service.runs.database import Database
from service.runs.schema import AttemptModel, EventModel, JsonObject, ProgressModel, RunModel
from service.runs.states import Condition, State

NAMES = [f"{what}-{how}" for what in ("photos", "birds", "cells", "roads", "leaves") for how in range(10)]
PROJECTS = ["default", "vision", "biology", "maps"]
OWNERS = [f"user{number}" for number in range(20)]
SPEC = """\
name: photos
data: {train: s3://datasets/photos/train, image_size: 224}
encoder: {name: resnet50}
method: {queue_size: 65536, groups: 8}
train: {epochs: 200, global_batch_size: 256}
scale: {workers: 8, gpus_per_worker: 1, cpus_per_worker: 8}
register: {model: photos-encoder}
"""
EVENTS = ("created", "begin", "accepted", "running", "condition", "lost", "begin", "running", "succeeded")
_BEGIN = datetime(2025, 11, 25, tzinfo=UTC)
_STATES = ([State.SUCCEEDED] * 70, [State.FAILED] * 18, [State.CANCELLED] * 12)


def fill(database: Database, runs: int, *, storage: str) -> None:
    """Store runs that have ended, each with two attempts, nine events and its last progress.

    They are stored as rows, not by signals: this is about reading.

    Args:
        database: Empty.
        runs: How many.
        storage: Folder that holds their folders; none is made.
    """
    chance, spec = random.Random(0), parse_spec(SPEC)
    text = to_yaml(spec)
    states = [state for part in _STATES for state in part]
    for first in range(0, runs, 1000):
        made = [
            _rows(number, chance.choice(states), chance, text, spec.hash, storage)
            for number in range(first, min(runs, first + 1000))
        ]
        with database.writing() as session:
            session.execute(insert(RunModel), [run for run, _, _, _ in made])
            session.execute(insert(AttemptModel), [row for _, attempts, _, _ in made for row in attempts])
            session.execute(insert(EventModel), [row for _, _, events, _ in made for row in events])
            session.execute(insert(ProgressModel), [progress for _, _, _, progress in made])


def progress_of(step: int) -> JsonObject:
    """What a run of that many steps says of itself."""
    return {
        "phase": "training",
        "step": step,
        "total_steps": 100_000,
        "epoch": step / 500,
        "epochs": 200,
        "metrics": {
            "loss": 6.1,
            "loss/instance": 5.2,
            "loss/relation": 0.6,
            "learning_rate": 0.03,
            "time/saving": 0.001,
        },
        "pictures_per_s": 2310.5,
        "data_wait": 0.01,
        "memory_gb": 11.2,
        "eta_s": 0.1 * (100_000 - step),
        "health": "healthy",
    }


Row = dict[str, object]


def _rows(
    number: int, state: State, chance: random.Random, spec: str, spec_hash: str, storage: str
) -> tuple[Row, list[Row], list[Row], Row]:
    created = _BEGIN + timedelta(minutes=50 * number)
    name, run_id = chance.choice(NAMES), f"run-{number:06d}"
    since = {f"{condition}_since": created if chance.random() < 0.02 else None for condition in Condition}
    run: Row = {
        "id": run_id,
        "name": name,
        "kind": "sweep" if chance.random() < 0.05 else "run",
        "project": chance.choice(PROJECTS),
        "owner": chance.choice(OWNERS),
        "storage": storage,
        "spec": spec,
        "spec_hash": spec_hash,
        "lineage": {},
        "state": state.value,
        "reason": "The encoder is registered as photos-encoder/12.",
        "attempts": 2,
        "budget_from": 0,
        "version": len(EVENTS),
        "created": created,
        "updated": created + timedelta(hours=9),
        **since,
    }
    attempts: list[Row] = [
        {
            "run_id": run_id,
            "number": attempt,
            "submission_id": f"{run_id}-a{attempt}",
            "backend": "ray",
            "state": state.value.replace("cancelled", "stopped") if attempt == 2 else "failed",
            "started": created,
            "ended": created + timedelta(hours=attempt),
            "cause": "preempted" if attempt == 1 else None,
            "exit_code": 0,
            "step": 50_000 * attempt,
        }
        for attempt in (1, 2)
    ]
    events: list[Row] = [
        {
            "run_id": run_id,
            "number": place,
            "at": created + timedelta(minutes=place),
            "kind": kind,
            "words": f"The job {run_id}-a1 runs on the Ray cluster; nothing is known against it.",
            "data": {"actor": "leader", "state": state.value},
        }
        for place, kind in enumerate(EVENTS, 1)
    ]
    return run, attempts, events, {"run_id": run_id, "at": created, "data": progress_of(100_000)}


def percentile(values: Sequence[float], per_cent: int) -> float:
    """The value that so many per cent of them do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[per_cent - 1]
