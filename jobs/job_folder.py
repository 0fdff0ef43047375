"""What the folders of all jobs have in common: an id, a wish to stop, and how the last attempt ended."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any, ClassVar, TypedDict

from jobs.errors import RecoError, UserError
from jobs.storage import Storage, open_storage

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SUBMISSION_VARIABLE = "RECO_SUBMISSION_ID"
"""Variable of the environment that tells a job of the service which attempt it is."""


class Outcome(TypedDict, total=False):
    """How an attempt ended.

    `status` is succeeded, stopped or failed; `exit_code` is that of the command; `reason` says why one stopped that
    nobody interrupted; `kind` is the class of the error; `submission` the attempt, where the service started it.
    """

    status: str
    exit_code: int
    error: str
    hint: str
    reason: str
    results: dict[str, float]
    model: str
    tracking_url: str
    kind: str
    submission: str


class KeptError(RecoError):
    """An error of another process, as `failed` kept it.

    Attributes:
        kind: Name of its class.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome["error"], hint=outcome["hint"] or None)
        self.exit_code = outcome["exit_code"]
        self.kind = outcome.get("kind", RecoError.__name__)


def failed(error: RecoError) -> Outcome:
    """The outcome of an attempt that an error ended."""
    return _signed(
        {
            "status": "failed",
            "exit_code": error.exit_code,
            "error": error.message,
            "hint": error.hint or "",
            # A worker's error reaches the driver as its folder kept it, and is then kept again.
            "kind": error.kind if isinstance(error, KeptError) else type(error).__name__,
        }
    )


def error_of(outcome: Outcome) -> RecoError:
    """The error that ended an attempt, as `failed` kept it."""
    return KeptError(outcome)


def _signed(outcome: Outcome) -> Outcome:
    """The outcome with the attempt that it is of, where the environment tells."""
    submission = os.environ.get(SUBMISSION_VARIABLE)
    return {**outcome, "submission": submission} if submission else outcome


class JobFolder:
    """The folder of one job, on disk or in S3. Everything is written whole, so a reader never sees half of it.

    Args:
        url: Folder or S3 prefix that holds the jobs.
        job_id: The job.
        patience_s: As `open_storage` has it.

    Attributes:
        job_id: As given.
        parent: As `url`.
        url: Of the job's own folder.
        storage: The same, opened.

    Raises:
        UserError: If the id cannot be the name of a folder, a log and a tag.
    """

    kind: ClassVar[str] = "job"
    """What a person calls it."""
    of_an_attempt: ClassVar[tuple[str, ...]] = ("outcome.json", "stop")
    """Keys that say something of one attempt only."""

    def __init__(self, url: str, job_id: str, *, patience_s: float | None = None) -> None:
        if not _ID.fullmatch(job_id):
            raise UserError(
                f"a {self.kind} cannot be called {job_id!r}.",
                hint="Use 1 to 128 letters, digits, dots, underscores and hyphens, starting with a letter or digit.",
            )
        self.job_id = job_id
        self.parent = url.rstrip("/")
        self.url = f"{self.parent}/{job_id}"
        self.storage: Storage = open_storage(self.url, patience_s=patience_s)

    def begin_attempt(self) -> None:
        """Forget how an earlier attempt ended and whether somebody asked it to stop."""
        for key in self.of_an_attempt:
            if self.storage.exists(key):
                self.storage.delete(key)

    def request_stop(self) -> None:
        """Ask the job to save and stop; it does so within seconds."""
        self.storage.write("stop", b"")

    def stop_requested(self) -> bool:
        """Whether somebody asked the job to stop."""
        return self.storage.exists("stop")

    def write_outcome(self, outcome: Outcome) -> None:
        """Say how this attempt ended."""
        self.storage.write("outcome.json", json.dumps(_signed(outcome), indent=1).encode())

    def outcome(self) -> Outcome | None:
        """How the last attempt ended, or None while it has not."""
        outcome: Outcome | None = self._json("outcome.json")
        return outcome

    def _json(self, key: str) -> Any:  # noqa: ANN401 - what it is depends on the key
        """What a key holds, or None where there is no such key.

        Amazon's S3 replaces an object at once; other servers may show it half written, for a moment.
        """
        for wait in (0.05, 0.2, 0.8, None):
            if not self.storage.exists(key):
                return None
            try:
                return json.loads(self.storage.read(key))
            except ValueError as error:
                if wait is None:
                    raise RecoError(f"{self.url}/{key} is damaged: {error}.") from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")
