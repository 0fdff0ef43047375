"""A job in the foreground: started in a session of its own, watched, stopped by Ctrl-C in an orderly way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import RecoError
from service.child import end_with_parent
from service.cli.home import home

if TYPE_CHECKING:
    from jobs.job_folder import JobFolder, Outcome

_POLL_S = 0.5


def carry_out(
    command: list[str], folder: JobFolder, *, watch: Callable[[], None], say: Callable[[str], None], goes_on: str
) -> Outcome:
    """Run a job to its end; returns how it ended, where it did not fail.

    The first Ctrl-C asks it to save and stop, the second ends it. Its output is appended to `log_of(folder)`.

    Args:
        command: The job.
        folder: The job's, claimed.
        watch: Called about twice a second, and once when it is over.
        say: Prints a note.
        goes_on: What goes on with it where it ends without a word, as part of a sentence.

    Raises:
        RecoError: It failed, or ended without a word.
    """
    from jobs.job_folder import error_of  # late: it opens storage, which no other command should wait for

    interrupted = False
    log = log_of(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file, _started(command, file.fileno()) as job:
        while job.poll() is None:
            try:
                watch()
                time.sleep(_POLL_S)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                say(f"saving and stopping; Ctrl-C again ends the {folder.kind} at once")
                job.send_signal(signal.SIGINT)
        watch()
    outcome = folder.outcome()
    if outcome is None or outcome["exit_code"] != job.returncode:  # an earlier attempt's says nothing of this one
        raise RecoError(
            f"{folder.kind} {folder.job_id} ended without a word (exit code {job.returncode}): {_last_words(log)}",
            hint=f"See {log}; {goes_on}.",
        )
    if outcome["status"] == "failed":
        outcome["hint"] = outcome["hint"] or f"The log is {log}."
        raise error_of(outcome)
    return outcome


def log_of(folder: JobFolder) -> Path:
    """Where the output of a job is kept on this machine."""
    return home() / "logs" / f"{folder.job_id}.log"


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its log is empty"


@contextmanager
def _started(command: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the job in a session of its own, so that Ctrl-C reaches it through us, once and in order."""
    job = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=end_with_parent
    )
    try:
        yield job
        job.wait()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
