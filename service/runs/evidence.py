"""What is seen of a run, and what follows: its folder is read, then one pure function decides what to do."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, TypeVar

from jobs.checkpoints.manifest import list_manifests
from jobs.errors import RecoError
from jobs.job_folder import Outcome
from jobs.run_folder import Progress, RunFolder
from jobs.storage import NotFoundError, StorageError
from service.backends.base import Answer
from service.runs import retry
from service.runs.records import Attempt, Run
from service.runs.states import AttemptState, Condition, Signal, State
from service.runs.store import Ending

_log = logging.getLogger("reco.leader")
Told = TypeVar("Told")

_STARVED, _FED = 0.2, 0.1  # of the time; two limits, so that a run between them does not come and go
_TOLD_TO_END = (130, -signal.SIGTERM, 128 + signal.SIGTERM)
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class FolderEvidence:
    """What a run's folder says of one attempt. All of it was read, or there is none of this.

    Attributes:
        outcome: How the attempt ended, as it says itself; None while it has said nothing.
        failure: The error that ended it for good; only looked for once it has ended.
        step: Of the newest checkpoint; only looked for once it has ended.
        progress: How far the run is.
        stop_requested: The folder holds a wish to stop.
    """

    outcome: Outcome | None = None
    failure: Outcome | None = None
    step: int = 0
    progress: Progress | None = None
    stop_requested: bool = False


@dataclass(frozen=True)
class Pace:
    """How an attempt moves.

    Attributes:
        still_s: Seconds that it has been at the same step of the same phase.
        data_wait: Share of its time that it waits for data; None where it has not said so itself yet.
    """

    still_s: float = 0.0
    data_wait: float | None = None


@dataclass(frozen=True)
class Seen:
    """All that is known of a run at one moment.

    Attributes:
        run: As stored.
        attempts: All of them, the first one first.
        now: The time.
        answer: Of the backend; None where it gave none, which says nothing of the job.
        silence: Why there is no answer.
        folder: What the folder says; None where the storage did not answer, which is not the same as an empty folder.
        pace: How the attempt moves; None where nobody can tell.
        stall_limit_s: Longest that it may stand still.
        stopping_since: When this leader first saw that the run is to stop.
        backend_asked: When it last asked the backend to end the job.
        grace_s: Time that the run has to save and end by itself.
    """

    run: Run
    attempts: Sequence[Attempt]
    now: datetime
    answer: Answer | None = None
    silence: str = ""
    folder: FolderEvidence | None = None
    pace: Pace | None = None
    stall_limit_s: float = 1800.0
    stopping_since: datetime | None = None
    backend_asked: datetime | None = None
    grace_s: float = 300.0


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


def read_folder(folder: RunFolder, submission: str, *, over: bool) -> FolderEvidence | None:
    """What a folder says of an attempt; None where its storage does not answer.

    Args:
        folder: The run's.
        submission: The attempt's id: what another one left says nothing of this.
        over: The backend says that the job has ended, so what only matters then is looked for, too.
    """
    try:
        outcome = _of(submission, _whole(folder.outcome))
        ended = over or outcome is not None
        return FolderEvidence(
            outcome=outcome,
            failure=_of(submission, _failure(folder)) if ended else None,
            step=max((manifest.step for manifest in list_manifests(folder.storage)), default=0) if ended else 0,
            progress=None if ended else _whole(folder.progress),
            stop_requested=folder.stop_requested(),
        )
    except StorageError as error:
        _log.warning("the folder of run %s cannot be read: %s", folder.run_id, error)
        return None


class Watch:
    """Remembers when each attempt last moved: progress carries no time, and the clocks of hosts differ."""

    def __init__(self) -> None:
        self._seen: dict[str, _Sight] = {}

    def look(
        self, submission: str, progress: Progress | None, now: datetime, *, still_before: datetime | None = None
    ) -> Pace:
        """How an attempt moves, by what it says now and said before.

        Args:
            submission: The attempt.
            progress: What it says.
            now: The time.
            still_before: It has stood still since then, as a leader before this one knew.
        """
        said = progress or Progress()
        place = (said.get("step", 0), said.get("phase", ""))
        sight = self._seen.get(submission)
        if sight is None:
            sight = _Sight(place, still_before or now, said, fresh=False)
        else:
            # What lies there at first may be of the attempt before: the job deletes that when it begins.
            fresh = sight.fresh or said != sight.said
            sight = _Sight(place, sight.since if sight.place == place else now, said, fresh)
        self._seen[submission] = sight
        return Pace((now - sight.since).total_seconds(), said.get("data_wait") if sight.fresh else None)

    def keep(self, submissions: Collection[str]) -> None:
        """Forget all others."""
        self._seen = {submission: sight for submission, sight in self._seen.items() if submission in submissions}


@dataclass(frozen=True)
class _Sight:
    place: tuple[int, str]
    since: datetime
    said: Progress
    fresh: bool


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
    actions = [*_reached(seen), *_moving(attempt, seen)]
    stopping = seen.run.state is State.STOPPING
    answer = seen.answer
    if answer is not None and answer.status == "absent":
        # Accepted, it would have ended above. A job that was never submitted is, once nothing speaks against it.
        if attempt.state is AttemptState.INTENDED and seen.folder is not None and not stopping:
            actions.append(Submit())
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
    ended = [counted for before in seen.attempts[:-1] if (counted := before.counted()) is not None]
    decision = retry.decide(diagnosis.cause, retry.spent_on(ended, step=folder.step))
    words = f"{diagnosis.words} {decision.words}"
    if isinstance(decision, retry.GiveUp):
        return End(Signal.FAILED, words, ending)
    return End(Signal.LOST, words, ending, seen.now + timedelta(seconds=decision.after_s))


def _ended_as_asked(seen: Seen, outcome: Outcome | None, code: int | None) -> bool:
    if outcome is not None:
        return outcome.get("status") == "stopped"
    return code in _TOLD_TO_END or (seen.backend_asked is not None and code in _KILLED)


def _reached(seen: Seen) -> list[Action]:
    held = Condition.UNREACHABLE in seen.run.conditions
    if held == (seen.answer is None):
        return []
    words = "The backend answers again." if held else f"The backend does not answer: {seen.silence}"
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


def _of(submission: str, told: Outcome | None) -> Outcome | None:
    return told if told is not None and told.get("submission") == submission else None


def _whole(read: Callable[[], Told | None]) -> Told | None:
    """What is read; None where it is damaged: objects are written whole, so it stays so, and others have to tell."""
    try:
        return read()
    except StorageError:
        raise
    except RecoError as error:
        _log.warning("left out: %s", error)
        return None


def _failure(folder: RunFolder) -> Outcome | None:
    try:
        told: Outcome = json.loads(folder.storage.read("failure.json"))
    except (NotFoundError, ValueError):
        return None  # it only makes the diagnosis better
    return told
