"""What is seen of a run: what its folder says of an attempt, and all that is known at one moment."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from jobs.checkpoints.manifest import list_manifests
from jobs.errors import RecoError
from jobs.job_folder import JobFolder, Outcome
from jobs.run_folder import Progress, RunFolder
from jobs.storage import NotFoundError, StorageError
from jobs.sweeps.folder import SweepFolder
from service.backends.base import Answer
from service.runs.pace import Pace
from service.runs.records import Attempt, Run
from service.runs.sweep_progress import SweepProgress

_log = logging.getLogger("reco.leader")
_Told = TypeVar("_Told")


@dataclass(frozen=True)
class FolderEvidence:
    """What a run's folder says of one attempt. All of it was read, or there is none of this.

    Attributes:
        outcome: How the attempt ended, as it says itself; None while it has said nothing.
        failure: The error that ended it for good; only looked for once it has ended.
        step: Of the newest checkpoint, of a sweep the trials that have ended; only looked for once it has ended.
        progress: How far the run is.
        stop_requested: The folder holds a wish to stop; only looked for while the run is to stop.
    """

    outcome: Outcome | None = None
    failure: Outcome | None = None
    step: int = 0
    progress: Progress | None = None
    stop_requested: bool = False


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


class FolderReader:
    """Reads what folders say of attempts. It remembers the ledgers of sweeps, which only grow, and nothing else."""

    def __init__(self) -> None:
        self._sweeps: dict[str, SweepProgress] = {}

    def read(self, folder: JobFolder, submission: str, *, over: bool, stopping: bool) -> FolderEvidence | None:
        """What a folder says of an attempt; None where its storage does not answer.

        Args:
            folder: The run's.
            submission: The attempt's id: what another one left says nothing of this.
            over: The backend says that the job has ended, so what only matters then is looked for, too.
            stopping: The run is to stop, so whether its folder says so is looked for, too.
        """
        try:
            outcome = _of(submission, _whole(folder.outcome))
            ended = over or outcome is not None
            progress = _whole(lambda: self._progress(folder, submission))
            return FolderEvidence(
                outcome=outcome,
                failure=_of(submission, _failure(folder)) if ended else None,
                step=self._step(folder, submission) if ended else 0,
                progress=progress,
                stop_requested=stopping and folder.stop_requested(),
            )
        except StorageError as error:
            _log.warning("the folder of %s %s cannot be read: %s", folder.kind, folder.job_id, error)
            return None

    def keep(self, submissions: Collection[str]) -> None:
        """Forget all others."""
        self._sweeps = {submission: kept for submission, kept in self._sweeps.items() if submission in submissions}

    def _progress(self, folder: JobFolder, submission: str) -> Progress | None:
        if isinstance(folder, RunFolder):
            return folder.progress()
        if isinstance(folder, SweepFolder):
            return self._sweeps.setdefault(submission, SweepProgress(folder)).read()
        return None

    def _step(self, folder: JobFolder, submission: str) -> int:
        """How far the job has come for good."""
        if isinstance(folder, RunFolder):
            return max((manifest.step for manifest in list_manifests(folder.storage)), default=0)
        sweep = self._sweeps.get(submission)
        return 0 if sweep is None else sweep.ended


def _failure(folder: JobFolder) -> Outcome | None:
    if not isinstance(folder, RunFolder):
        return None
    try:
        told: Outcome = json.loads(folder.storage.read("failure.json"))
    except (NotFoundError, ValueError):
        return None  # it only makes the diagnosis better
    return told


def _of(submission: str, told: Outcome | None) -> Outcome | None:
    return told if told is not None and told.get("submission") == submission else None


def _whole(read: Callable[[], _Told | None]) -> _Told | None:
    """What is read; None where it is damaged: objects are written whole, so it stays so, and others have to tell."""
    try:
        told = read()
    except StorageError:
        raise
    except (RecoError, ValueError, KeyError) as error:
        _log.warning("left out: %s", error)
        return None
    return told if isinstance(told, dict) else None
