"""A job in the foreground: started in a session of its own, watched, stopped by Ctrl-C in an orderly way."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.5


def carry_out(command: list[str], log: Path, *, watch: Callable[[], None], say: Callable[[str], None]) -> int:
    """Run a job to its end; returns its exit code.

    The first Ctrl-C asks it to save and stop, the second ends it.

    Args:
        command: The job.
        log: Where its output is appended.
        watch: Called about twice a second, and once when it is over.
        say: Prints a note.
    """
    interrupted = False
    with log.open("ab") as file, _started(command, file.fileno()) as job:
        while job.poll() is None:
            try:
                watch()
                time.sleep(_POLL_S)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                say("saving and stopping; Ctrl-C again ends it at once")
                job.send_signal(signal.SIGINT)
        watch()
    return job.returncode


def last_words(log: Path) -> str:
    """The last line that a job wrote."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its log is empty"


@contextmanager
def _started(command: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the job in a session of its own, so that Ctrl-C reaches it through us, once and in order."""
    job = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=_end_with_parent
    )
    try:
        yield job
        job.wait()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def _end_with_parent() -> None:
    # PR_SET_PDEATHSIG: if this command is killed, its job is asked to save and stop instead of going on unseen.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
