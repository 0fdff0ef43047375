"""Whether and when a run is tried again: from what an attempt left behind to a cause, and from that to a decision."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from jobs.job_folder import Outcome


class Cause(StrEnum):
    """What ended an attempt that has no result; docs/runs.md says what follows from each."""

    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    OUT_OF_MEMORY = "out_of_memory"
    NAN = "nan"
    DATA = "data"
    USER_CODE = "user_code"
    TRACKING_OUTAGE = "tracking_outage"
    STORAGE_OUTAGE = "storage_outage"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Evidence:
    """What an attempt left behind.

    Attributes:
        exit_code: Of the job's process, negative for a signal; None where nobody saw it end.
        failure: The run's `failure.json`: the error that ended the attempt for good.
        outcome: The run's `outcome.json`: how the attempt ended, as it says itself.
        error_class: Name of the error's class, where it is known.
        message: What the backend says about the end.
        vanished: The backend answers, and knows no such job any more.
    """

    exit_code: int | None = None
    failure: Outcome | None = None
    outcome: Outcome | None = None
    error_class: str | None = None
    message: str = ""
    vanished: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What ended an attempt, and how that is known.

    Attributes:
        cause: What decides about the next attempt.
        words: A sentence for the events.
    """

    cause: Cause
    words: str


@dataclass(frozen=True)
class Policy:
    """What a cause is worth: so many more attempts without a new checkpoint, after waits that double."""

    again: int
    first_wait_s: float = 0.0
    longest_wait_s: float = 0.0

    def wait_s(self, ended_before: int) -> float:
        """Seconds until the next attempt, after so many that this cause had ended before."""
        return min(self.first_wait_s * 2.0**ended_before, self.longest_wait_s)


@dataclass(frozen=True)
class Retry:
    """Make another attempt, so many seconds from now; `words` say why."""

    after_s: float
    words: str


@dataclass(frozen=True)
class GiveUp:
    """Make no other attempt; `words` say why."""

    words: str


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended, for counting.

    Attributes:
        cause: What ended it.
        step: Of the newest checkpoint there was then; 0 without one.
    """

    cause: Cause
    step: int = 0


POLICIES: Mapping[Cause, Policy] = {
    Cause.PREEMPTED: Policy(100, 10.0, 300.0),
    Cause.NODE_LOST: Policy(10, 15.0, 600.0),
    Cause.OUT_OF_MEMORY: Policy(1, 60.0, 60.0),
    Cause.STORAGE_OUTAGE: Policy(20, 30.0, 600.0),
    Cause.TRACKING_OUTAGE: Policy(20, 30.0, 600.0),
    Cause.UNKNOWN: Policy(1, 60.0, 60.0),
    Cause.DATA: Policy(0),
    Cause.NAN: Policy(0),
    Cause.USER_CODE: Policy(0),
}

_NAMES = {
    Cause.PREEMPTED: "it was interrupted from outside",
    Cause.NODE_LOST: "a host was lost",
    Cause.OUT_OF_MEMORY: "it ran out of memory",
    Cause.NAN: "training diverged",
    Cause.DATA: "its data cannot be used",
    Cause.USER_CODE: "its spec, its surroundings or its code are at fault",
    Cause.TRACKING_OUTAGE: "MLflow was away",
    Cause.STORAGE_OUTAGE: "the storage was away",
    Cause.UNKNOWN: "nothing says why",
}

_NEVER = {
    Cause.NAN: "it would diverge at the same step again",
    Cause.DATA: "the same data is there the next time",
    Cause.USER_CODE: "somebody has to mend that first",
}

_CLASSES = {
    "DivergedError": Cause.NAN,
    "BadPicturesError": Cause.DATA,
    "DamagedSampleError": Cause.DATA,
    "PictureError": Cause.DATA,
    "ShardError": Cause.DATA,
    "SourceError": Cause.DATA,
    "IndexMismatchError": Cause.DATA,
    "ObjectChangedError": Cause.DATA,
    "FencedError": Cause.NODE_LOST,  # another took over while this one was cut off
    "UnreachableError": Cause.STORAGE_OUTAGE,
    "StalledError": Cause.STORAGE_OUTAGE,
    "TrackingUnreachableError": Cause.TRACKING_OUTAGE,
    "OutOfMemoryError": Cause.OUT_OF_MEMORY,
    "SpecError": Cause.USER_CODE,
    "PlanError": Cause.USER_CODE,
    "NotFoundError": Cause.USER_CODE,
    "AccessDeniedError": Cause.USER_CODE,
    "CredentialsError": Cause.USER_CODE,
    "BucketError": Cause.USER_CODE,
    "AddressError": Cause.USER_CODE,
    "UnsupportedEncoderError": Cause.USER_CODE,
    "MissingPackageError": Cause.USER_CODE,
}

# Words of errors whose class is not at hand: a worker's error reaches the driver as a line of text. The first that fits
# decides, so what names one thing only comes before what may be the trace of another.
_WORDS = tuple(
    (cause, re.compile(pattern, re.IGNORECASE))
    for cause, pattern in (
        (Cause.NAN, r"the loss became|weights became infinite|the contrast loss exploded"),
        (
            Cause.DATA,
            r"pictures of epoch \d+ cannot be used|more than data\.bad_pictures|shards were changed and indexed",
        ),
        (Cause.OUT_OF_MEMORY, r"out of memory|OutOfMemory|memory pressure|\bOOM\b|OOMKilled|cannot allocate memory"),
        (Cause.OUT_OF_MEMORY, r"process ended \d+ times .*(signal 9\b|exit code -9\b)"),
        (Cause.PREEMPTED, r"preempt|spot (instance )?(reclaim|interrupt)|\bevict(ed|ion)\b|is being drained"),
        (Cause.NODE_LOST, r"node (has )?died|node is dead|node was terminated|lost its host|SUPERVISOR_ACTOR_DIED"),
        (Cause.NODE_LOST, r"SUPERVISOR_ACTOR_(START_TIMEOUT|UNSCHEDULABLE)|no Ray cluster answers|raylet .*died"),
        (Cause.TRACKING_OUTAGE, r"MLflow is not reachable|: MLflow at \S+ says: |the local MLflow server"),
        (Cause.STORAGE_OUTAGE, r"No answer from \S+ for |keeps answering \S+ for |came for \d+ s; the loader waits"),
        (Cause.USER_CODE, r"^budget\.\w+ .* is used up"),
        (Cause.USER_CODE, r"RUNTIME_ENV_SETUP_FAILURE|ENTRYPOINT_COMMAND_START_ERROR|runtime_env"),
    )
)

_RESTARTS = re.compile(r"^training of run \S+ failed after \d+ restarts: ")  # the id of a run may be any of the words

_EXIT_STOPPED = 130  # of our own commands, after Ctrl-C or SIGTERM: they save, and say so
_EXIT_USER_ERROR = 2


def classify(evidence: Evidence) -> Diagnosis:
    """What ended an attempt, from the most telling thing it left behind."""
    told = evidence.failure or evidence.outcome or Outcome()
    error = _RESTARTS.sub("", told.get("error", ""))
    kind = evidence.error_class or ""
    if (cause := _CLASSES.get(kind.rsplit(".", 1)[-1])) is not None:
        return Diagnosis(cause, _sentence(cause, f"it ended with {kind}", error))
    said = ((error, "the run says"), (told.get("reason", ""), "the run says"), (evidence.message, "the backend says"))
    for words, source in said:
        for cause, pattern in _WORDS:
            if pattern.search(words):
                return Diagnosis(cause, _sentence(cause, source, words))
    return _by_its_end(evidence, told)


def decide(cause: Cause, spent: Mapping[Cause, int]) -> Retry | GiveUp:
    """Whether a run is tried again.

    Args:
        cause: What ended the last attempt.
        spent: How many attempts before that one each cause has ended; see `spent_on`.
    """
    policy, before = POLICIES[cause], spent.get(cause, 0)
    if policy.again == 0:
        return GiveUp(f"Not tried again: {_NEVER[cause]}.")
    if before >= policy.again:
        times = "once" if policy.again == 1 else f"{policy.again} times"
        return GiveUp(f"Not tried again: it was already tried {times} after {_noun(cause)}, without a new checkpoint.")
    wait = policy.wait_s(before)
    return Retry(wait, f"Tried again in {wait:.0f} s, for the {_nth(before + 1)} of {policy.again} times.")


def spent_on(ended: Iterable[Ended], *, step: int = 0) -> Counter[Cause]:
    """What is spent of each budget: a newer checkpoint gives all of them back.

    Args:
        ended: The attempts before the last one, in their order.
        step: Of the newest checkpoint that the last attempt left.
    """
    counts: Counter[Cause] = Counter()
    newest = 0
    for attempt in ended:
        if attempt.step > newest:
            counts.clear()
            newest = attempt.step
        counts[attempt.cause] += 1
    return counts if step <= newest else Counter()


def _by_its_end(evidence: Evidence, told: Outcome) -> Diagnosis:
    """What the way it ended tells, where no words do."""
    code = evidence.exit_code if evidence.exit_code is not None else told.get("exit_code")
    if told.get("status") == "stopped" or code in (_EXIT_STOPPED, -signal.SIGTERM, 128 + signal.SIGTERM):
        cause, how = Cause.PREEMPTED, "it was told to end, and not by this service"
    elif code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        cause, how = (
            Cause.OUT_OF_MEMORY,
            "its process was killed (signal 9), which is mostly the system short of memory",
        )
    elif code == _EXIT_USER_ERROR:
        cause, how = Cause.USER_CODE, "it left with exit code 2, which is for what the caller can mend"
    elif evidence.vanished and not told:
        cause, how = Cause.NODE_LOST, "the backend does not know the job any more, and it left no outcome"
    else:
        ended = "nobody saw it end" if code is None else f"it left with exit code {code}"
        cause, how = Cause.UNKNOWN, ended
    return Diagnosis(cause, _sentence(cause, how, told.get("error", "") or evidence.message))


def _sentence(cause: Cause, how: str, words: str) -> str:
    name = _NAMES[cause]
    said = " ".join(words.split())[:500].rstrip(".")
    return f"{name[0].upper()}{name[1:]}: {how}{f': {said}' if said else ''}."


def _noun(cause: Cause) -> str:
    return "an unexplained end" if cause is Cause.UNKNOWN else f"'{cause}'"


def _nth(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{last}"
