"""The states of a run and what moves it from one to another: pure functions over the table in docs/runs.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Kind = Literal["run", "sweep"]
"""What a run of the store is: one pretraining, or a sweep over many."""


class State(StrEnum):
    """Where a run is; docs/runs.md says what each means."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended: nothing more happens to it unless somebody resumes it."""
        return self in _FINAL

    @property
    def has_live_attempt(self) -> bool:
        """Whether a job of the run may exist."""
        return self in _LIVE


class Condition(StrEnum):
    """What is known about a run that decides nothing: no condition ever changes the state."""

    UNREACHABLE = "unreachable"
    STALLED = "stalled"
    STARVED = "starved"


class Signal(StrEnum):
    """Something asked for, decided, or observed about the attempt under way."""

    BEGIN = "begin"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    LOST = "lost"
    FAILED = "failed"
    STOP = "stop"
    RESUME = "resume"


class AttemptState(StrEnum):
    """Where one attempt is.

    `intended` is stored and perhaps not yet submitted; an attempt ends as succeeded, stopped or failed.
    """

    INTENDED = "intended"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the attempt has ended."""
        return self in (AttemptState.SUCCEEDED, AttemptState.STOPPED, AttemptState.FAILED)


@dataclass(frozen=True)
class Refusal:
    """A signal that means nothing in a state.

    Attributes:
        state: The run's.
        signal: What was asked, decided or observed; to delete a run is asked as well, though it moves none.
    """

    state: State
    signal: Signal | Literal["delete"]

    def __str__(self) -> str:
        if self.state.is_final:
            return f"the run has {_ENDED[self.state]}, and stays so: '{self.signal}' changes nothing."
        return f"'{self.signal}' cannot happen to a run that is {self.state}."


@dataclass(frozen=True)
class Snapshot:
    """A run as far as its states go.

    Attributes:
        state: The run's.
        attempts: How many there were, the one under way included; the last one's number.
        attempt: State of the last one; None before the first.
    """

    state: State = State.QUEUED
    attempts: int = 0
    attempt: AttemptState | None = None


_FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
_LIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
_ENDED = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "been cancelled"}

_TABLE: Mapping[State, Mapping[Signal, State]] = {
    State.QUEUED: {Signal.BEGIN: State.STARTING, Signal.STOP: State.CANCELLED},
    State.STARTING: {
        Signal.ACCEPTED: State.STARTING,
        Signal.RUNNING: State.RUNNING,
        Signal.SUCCEEDED: State.SUCCEEDED,
        Signal.LOST: State.RECOVERING,
        Signal.FAILED: State.FAILED,
        Signal.STOP: State.STOPPING,
    },
    State.RUNNING: {
        Signal.ACCEPTED: State.RUNNING,
        Signal.RUNNING: State.RUNNING,
        Signal.SUCCEEDED: State.SUCCEEDED,
        Signal.LOST: State.RECOVERING,
        Signal.FAILED: State.FAILED,
        Signal.STOP: State.STOPPING,
    },
    State.RECOVERING: {Signal.BEGIN: State.STARTING, Signal.STOP: State.CANCELLED},
    State.STOPPING: {
        Signal.ACCEPTED: State.STOPPING,
        Signal.RUNNING: State.STOPPING,
        Signal.SUCCEEDED: State.SUCCEEDED,
        Signal.STOPPED: State.CANCELLED,
        Signal.LOST: State.CANCELLED,
        Signal.FAILED: State.CANCELLED,
        Signal.STOP: State.STOPPING,
    },
    State.SUCCEEDED: {},
    State.FAILED: {Signal.RESUME: State.QUEUED},
    State.CANCELLED: {Signal.RESUME: State.QUEUED},
}

_ATTEMPT_AFTER = {
    Signal.BEGIN: AttemptState.INTENDED,
    Signal.ACCEPTED: AttemptState.PENDING,
    Signal.RUNNING: AttemptState.RUNNING,
    Signal.SUCCEEDED: AttemptState.SUCCEEDED,
    Signal.STOPPED: AttemptState.STOPPED,
    Signal.LOST: AttemptState.FAILED,
    Signal.FAILED: AttemptState.FAILED,
}


def next_state(state: State, signal: Signal) -> State | Refusal:
    """Where a signal moves a run, which may be where it is; a refusal where the table has none."""
    return _TABLE[state].get(signal, Refusal(state, signal))


def advance(run: Snapshot, signal: Signal) -> Snapshot | Refusal:
    """What a signal makes of a run and its attempts."""
    state = next_state(run.state, signal)
    if isinstance(state, Refusal):
        return state
    attempts = run.attempts + 1 if signal is Signal.BEGIN else run.attempts
    attempt = _ATTEMPT_AFTER.get(signal, run.attempt)
    if signal is Signal.ACCEPTED and run.attempt is AttemptState.RUNNING:
        attempt = run.attempt  # an answer that came late: nobody unlearns that the job runs
    return Snapshot(state, attempts, attempt)


def submission_id(run_id: str, attempt: int) -> str:
    """The id of an attempt's job: the backend takes it once, so that submitting twice cannot run it twice."""
    return f"{run_id}-a{attempt}"
