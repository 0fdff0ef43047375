"""What a submission asks for, read and checked: a run's spec, or a sweep's with its base."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from jobs.errors import UserError
from jobs.spec import RunSpec, Sweep, parse_spec, parse_sweep, to_yaml
from service.contract.messages import RunDetails, Submission
from service.runs.records import Run
from service.runs.states import Kind

_BASE = "base.yaml"
Parsed: TypeAlias = RunSpec | Sweep


@dataclass(frozen=True)
class Checked:
    """A spec without mistakes.

    Attributes:
        kind: Of a run, or of a sweep.
        name: What it calls itself.
        text: As the store keeps it: whole, every default spelled out; of a sweep, two documents, its base the second.
        hash: Two of one hash are the same experiment.
        parsed: The same as a value.
    """

    kind: Kind
    name: str
    text: str
    hash: str
    parsed: Parsed


def checked(submission: Submission) -> Checked:
    """Read what is submitted.

    Raises:
        SpecError: It has mistakes; all of them are told.
        UserError: A sweep comes without its base.
    """
    if submission.kind == "run":
        return of_run(parse_spec(submission.spec, submission.overrides))
    if submission.base is None:
        raise UserError("a sweep comes with the spec of its base.", hint="Send its text as `base`.")
    return of_sweep(parse_sweep(submission.spec, submission.base, submission.overrides))


def of_run(spec: RunSpec) -> Checked:
    """A run's spec."""
    return Checked("run", spec.name, to_yaml(spec), spec.hash, spec)


def of_sweep(sweep: Sweep) -> Checked:
    """A sweep with its base."""
    spec = sweep.spec.model_copy(update={"base": _BASE})
    text = f"{to_yaml(spec)}---\n{to_yaml(sweep.base)}"
    searched = spec.model_dump_json(include={"objective", "search", "scheduler", "seeds", "space"})
    digest = hashlib.sha256(f"{sweep.base.hash} {sweep.epochs} {searched}".encode()).hexdigest()
    return Checked("sweep", spec.name, text, digest[:16], sweep)


def stored(run: Run, overrides: Sequence[str] = ()) -> Checked:
    """What the store keeps of a run, with changes on top; see `parsed_of`."""
    parsed = parsed_of(run, overrides)
    return of_run(parsed) if isinstance(parsed, RunSpec) else of_sweep(parsed)


def parsed_of(run: Run | RunDetails, overrides: Sequence[str] = ()) -> Parsed:
    """The same as a value only, which is all that most want to know.

    Raises:
        SpecError: The changes are mistaken, or it was stored by another version of this project.
    """
    source = f"the spec of {run.id}"
    if run.kind == "run":
        return parse_spec(run.spec, overrides, source=source)
    text, base = run.spec.split("\n---\n", 1)
    return parse_sweep(f"{text}\n", base, overrides, source=source)


@functools.lru_cache(maxsize=4096)  # a stored spec does not change, and reading YAML takes long
def data_of(spec: str) -> tuple[str, ...]:
    """The places of the pictures that a stored spec trains on; none where it cannot be read."""
    try:
        documents = [each for each in yaml.safe_load_all(spec) if isinstance(each, dict)]
    except yaml.YAMLError:
        return ()
    found: list[str] = []
    for document in documents:
        data = document.get("data")
        train = data.get("train") if isinstance(data, dict) else None
        found += [train] if isinstance(train, str) else [str(each) for each in train or ()]
    return tuple(found)
