"""What follows from what is seen of a run: one pure function, which says nothing where nothing is known."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from jobs.job_folder import Outcome
from jobs.run_folder import Progress
from service.runs import retry
from service.runs.evidence import Seen
from service.runs.records import Attempt, Ending
from service.runs.states import AttemptState, Condition, Signal, State

ANSWERS_AGAIN = "The backend answers again."

_STARVED, _FED = 0.2, 0.1  # of the time; two limits, so that a run between them does not come and go
_TOLD_TO_END = (130, -signal.SIGTERM, 128 + signal.SIGTERM)
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class Begin:
    """Store the next attempt."""

    words: str


@dataclass(frozen=True)
class Submit:
    """Have the backend start the job of the attempt that is stored."""


@dataclass(frozen=True)
class Note:
    """Store what the backend says of the job: `accepted` or `running`."""

    signal: Signal
    words: str


@dataclass(frozen=True)
class SetCondition:
    """Note that a condition begins or ends to hold."""

    condition: Condition
    holds: bool
    words: str


@dataclass(frozen=True)
class End:
    """Store the end of the attempt and what follows from it, at once."""

    signal: Signal
    words: str
    ending: Ending
    due: datetime | None = None


@dataclass(frozen=True)
class AskFolder:
    """Ask the run to save and stop."""


@dataclass(frozen=True)
class AskBackend:
    """Ask the backend to end the job."""


Action: TypeAlias = Begin | Submit | Note | SetCondition | End | AskFolder | AskBackend


def decide(seen: Seen) -> list[Action]:
    """What to do for a run, in this order; nothing where there is nothing to do or to know."""
    run = seen.run
    match run.state:
        case State.QUEUED:
            return [Begin("Its turn has come."), Submit()]
        case State.RECOVERING if run.due is None or run.due <= seen.now:
            return [Begin("The wait is over."), Submit()]
        case State.STARTING | State.RUNNING | State.STOPPING:
            return _decide_on(seen.attempts[-1], seen)
        case _:
            return []


def _decide_on(attempt: Attempt, seen: Seen) -> list[Action]:
    if (end := _end(attempt, seen)) is not None:
        return [end]  # conditions end with it
    stopping = seen.run.state is State.STOPPING
    answer = seen.answer
    absent = answer is not None and answer.status == "absent"
    # Accepted, it would have ended above. A job that was never submitted is, once nothing speaks against it.
    if absent and attempt.state is AttemptState.INTENDED and seen.folder is not None and not stopping:
        # Whether it is reached is seen then: one that only answers would be called so anew in each pass.
        return [*_moving(attempt, seen), Submit()]
    actions = [*_reached(seen), *_moving(attempt, seen)]
    if absent:
        return actions
    if answer is not None and not answer.ended:
        if attempt.state is AttemptState.INTENDED:
            actions.append(Note(Signal.ACCEPTED, "The backend has its job."))
        if answer.status == "running" and attempt.state is not AttemptState.RUNNING:
            actions.append(Note(Signal.RUNNING, "Its job runs."))
    return [*actions, *(_stop(seen) if stopping else [])]


def _end(attempt: Attempt, seen: Seen) -> End | None:
    """The end of the attempt, where its folder or an answer of the backend says that it has ended.

    A storage that does not answer is waited for: it may hold the results.
    """
    folder, answer = seen.folder, seen.answer
    if folder is None:
        return None
    outcome = folder.outcome
    stopping = seen.run.state is State.STOPPING
    if outcome is None:
        if answer is None or not answer.ended:
            return None
        if answer.status == "absent" and attempt.state is AttemptState.INTENDED:
            words = "It was asked to stop before its job was submitted."
            return End(Signal.STOPPED, words, Ending(step=folder.step)) if stopping else None
    code = answer.exit_code if answer is not None and answer.exit_code is not None else (outcome or {}).get("exit_code")
    told_to_end = outcome is None and answer is not None and answer.status == "stopped"
    if outcome is not None and outcome.get("status") == "succeeded":
        return End(Signal.SUCCEEDED, "It has its results.", Ending(exit_code=code, step=folder.step))
    if stopping and (told_to_end or _ended_as_asked(seen, outcome, code)):
        return End(Signal.STOPPED, "It has ended, as it was asked to.", Ending(exit_code=code, step=folder.step))
    diagnosis = retry.classify(
        retry.Evidence(
            exit_code=-signal.SIGTERM if told_to_end else code,  # whatever it left with
            failure=folder.failure,
            outcome=outcome,
            error_class=(folder.failure or outcome or Outcome()).get("kind"),
            message="" if answer is None else answer.words,
            vanished=answer is not None and answer.status == "absent",
        )
    )
    ending = Ending(diagnosis.cause, code, folder.step)
    if stopping:
        return End(Signal.FAILED, f"{diagnosis.words} Not tried again: it was asked to stop.", ending)
    # Whoever resumed a run has mended something: what ended it before then is paid for.
    since = [before for before in seen.attempts[:-1] if before.number > seen.run.budget_from]
    ended = [counted for before in since if (counted := before.counted()) is not None]
    decision = retry.decide(diagnosis.cause, retry.spent_on(ended, step=folder.step))
    words = f"{diagnosis.words} {decision.words}"
    if isinstance(decision, retry.GiveUp):
        return End(Signal.FAILED, words, ending)
    return End(Signal.LOST, words, ending, seen.now + timedelta(seconds=decision.after_s))


def _ended_as_asked(seen: Seen, outcome: Outcome | None, code: int | None) -> bool:
    if outcome is not None:
        return outcome.get("status") == "stopped"
    gone = seen.answer is not None and seen.answer.status == "absent"
    return code in _TOLD_TO_END or (seen.backend_asked is not None and (gone or code in _KILLED))


def _reached(seen: Seen) -> list[Action]:
    held = Condition.UNREACHABLE in seen.run.conditions
    if held == (seen.answer is None):
        return []
    words = ANSWERS_AGAIN if held else f"The backend does not answer: {seen.silence}"
    return [SetCondition(Condition.UNREACHABLE, not held, words)]


def _moving(attempt: Attempt, seen: Seen) -> list[Action]:
    runs = attempt.state is AttemptState.RUNNING or (seen.answer is not None and seen.answer.status == "running")
    if not runs or seen.folder is None or seen.pace is None:
        return []
    actions: list[Action] = []
    said = seen.folder.progress or Progress()
    stalled = seen.pace.still_s >= seen.stall_limit_s
    if stalled != (Condition.STALLED in seen.run.conditions):
        where = f"step {said.get('step', 0)} ({said.get('phase', 'nothing said yet')})"
        minutes = f"for {seen.pace.still_s / 60:.0f} minutes"
        words = f"It has been at {where} {minutes}." if stalled else f"It moves again: {where}."
        actions.append(SetCondition(Condition.STALLED, stalled, words))
    if (waits := seen.pace.data_wait) is not None:
        held = Condition.STARVED in seen.run.conditions
        starved = waits > (_FED if held else _STARVED)
        if starved != held:
            words = f"It waits for data {waits:.0%} of the time."
            actions.append(SetCondition(Condition.STARVED, starved, words))
    return actions


def _stop(seen: Seen) -> list[Action]:
    actions: list[Action] = []
    # The job forgets wishes of before when it begins: one that came a moment too early is said again.
    if seen.folder is not None and not seen.folder.stop_requested:
        actions.append(AskFolder())
    if seen.answer is None or seen.answer.ended:
        return actions
    since = seen.backend_asked or seen.stopping_since or seen.now
    waited = (seen.now - since).total_seconds() >= seen.grace_s
    at_once = seen.answer.status == "pending" and seen.backend_asked is None  # nothing trains that could be saved
    return [*actions, AskBackend()] if waited or at_once else actions
