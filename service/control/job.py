"""The job of an attempt, and the folder that it works in."""

from __future__ import annotations

import sys

from jobs.job_folder import JobFolder
from jobs.run_folder import RunFolder
from jobs.spec import Sweep
from jobs.sweeps.folder import SweepFolder
from service.backends.base import Job
from service.control.specs import parsed_of
from service.runs.records import Attempt, Run
from service.settings import Settings

PATIENCE_S = 10.0
"""How long a storage may stay away: jobs wait for minutes, but the leader looks again, and people want to be told."""
THEN_FULL = "then_full"
FORKED_FROM = "forked_from"
WEIGHTS_FROM = "weights_from"
"""Keys of a run's lineage that its job must know of."""


def folder_of(run: Run) -> JobFolder:
    """The folder of a run or a sweep."""
    return folder_at(run.kind, run.storage, run.id)


def folder_at(kind: str, storage: str, run_id: str) -> JobFolder:
    """The same of one that is not stored yet.

    Raises:
        UserError: The id cannot be the name of a folder.
    """
    made = SweepFolder if kind == "sweep" else RunFolder
    return made(storage, run_id, patience_s=PATIENCE_S)


def job_of(run: Run, attempt: Attempt, settings: Settings) -> Job:
    """What an attempt starts; its folder holds the spec by then.

    Args:
        run: As stored.
        attempt: The one that begins.
        settings: Of the leader.

    Raises:
        UserError: The folder holds another experiment, or the stored spec cannot be read.
        StorageError: The folder cannot be written now.
    """
    folder, parsed = folder_of(run), parsed_of(run)
    if isinstance(folder, SweepFolder):
        assert isinstance(parsed, Sweep)
        folder.claim(parsed)
        what = ["jobs.sweep", "run", "--id", run.id]
        what += ["--then-full"] if run.lineage.get(THEN_FULL) else []
    else:
        assert isinstance(folder, RunFolder) and not isinstance(parsed, Sweep)  # noqa: PT018
        folder.claim(parsed)
        what = ["jobs.pretrain", "--run-id", run.id]
        if (weights := run.lineage.get(WEIGHTS_FROM)) is not None:
            what += ["--weights-from", str(weights)]
    here = attempt.backend == "local"
    # On a cluster, Python and home are those of its own machines.
    python = [sys.executable, "-P"] if here else ["python", "-P"]
    home = str(settings.home) if here else "/tmp/reco"  # only a local MLflow server would be kept there
    return Job(
        command=[*python, "-m", *what, "--storage", run.storage, "--home", home],
        metadata={"run": run.id, "name": run.name, "owner": run.owner, "attempt": str(attempt.number)},
    )
