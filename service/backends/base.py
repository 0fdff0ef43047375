"""What every backend does: start a job once, say how it is, pass on its log, ask it to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jobs.errors import RecoError

Status = Literal["pending", "running", "succeeded", "failed", "stopped", "absent"]
"""What a backend knows of a job: `absent` is an answer too, that it has no such job."""


class BackendError(RecoError):
    """The backend answered, and refused."""


class UnreachableBackendError(RecoError):
    """The backend did not answer: nobody knows how its jobs are, and nothing follows from that."""


@dataclass(frozen=True)
class Job:
    """What is to be started.

    Attributes:
        command: Program and arguments. They are shown to everybody who may look, so no secret is among them.
        environment: Variables it gets besides those of the place it runs at; shown like the command.
        metadata: For people who look at the backend itself.
        cpus: Cores its own process needs; its workers are placed by Ray.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0


@dataclass(frozen=True)
class Answer:
    """How a job is, as its backend says.

    Attributes:
        status: See `Status`.
        exit_code: Of its process, where the backend knows it; negative for the signal that ended it.
        words: What the backend says besides, in a line; empty where it says nothing.
    """

    status: Status
    exit_code: int | None = None
    words: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job will not go on."""
        return self.status in ("succeeded", "failed", "stopped", "absent")


@dataclass(frozen=True)
class LogPart:
    """A part of a job's log.

    Attributes:
        data: Its bytes, from the offset that was asked for; never ends in the middle of a line unless the log does.
        next_offset: Where the next part begins.
    """

    data: bytes
    next_offset: int


class Backend(ABC):
    """Starts jobs, each under an id that the caller chose.

    Every method may be called from any process that knows the backend's address, at any time, also after the process
    that submitted the job has ended. None waits for a job. Each raises `UnreachableBackendError` when the backend does
    not answer within seconds, or what answers is not it, which says nothing of the job; and `BackendError` when it
    refuses the caller, for want of the right token, or an id it cannot have.
    """

    name: ClassVar[str]
    """What runs and events call it."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where its jobs are: what two servers of one name differ in, and no secret.

        Only a backend of the same place knows of a job: that another one has none of its id says nothing.
        """

    @abstractmethod
    def submit(self, submission_id: str, job: Job) -> bool:
        """Start a job.

        A repeated id starts nothing: not while the first one runs, and not after it has ended. So whoever does not know
        whether an earlier call arrived calls again.

        Returns:
            Whether the job is new; False where there was one of that id.

        Raises:
            BackendError: It was refused, and asking again will not help.
            UnreachableBackendError: No answer; it may have been started all the same.
        """

    @abstractmethod
    def look(self, submission_id: str) -> Answer:
        """How a job is.

        Raises:
            UnreachableBackendError: No answer.
        """

    @abstractmethod
    def stop(self, submission_id: str) -> None:
        """Ask a job to end: one SIGTERM, and SIGKILL after the backend's grace period. May be repeated, which asks no
        second time; an ended or absent job is left as it is. A job that was asked and has ended is `stopped`, whatever
        its exit code.

        Raises:
            UnreachableBackendError: No answer.
        """

    @abstractmethod
    def log(self, submission_id: str, offset: int) -> LogPart:
        """What a job has printed from an offset on, stdout and stderr together, or the first part of that.

        Nothing is left out: an empty part says that there is no more for now, and of an ended job that there is no
        more at all. A line that is not finished yet is told once it is, or the job has ended.

        A log may outlive its job, and may be gone with its host: then it is empty from any offset. Offsets are bytes
        and stay valid for as long as the log is there, so no line is lost or told twice by who asks again.

        Raises:
            UnreachableBackendError: No answer.
        """

    def kept(self) -> Sequence[str]:
        """Ids of the jobs of which something lies about here until it is removed; none where that clears up itself.

        Raises:
            UnreachableBackendError: No answer.
        """
        return ()

    def forget(self, submission_id: str) -> None:  # noqa: B027 - only who keeps something has something to forget
        """Remove what is kept of a job that has ended: its record, its log, and the knowledge that its id is taken.

        A job that runs is left as it is, and one that is absent is no mistake.

        Raises:
            UnreachableBackendError: No answer.
        """
