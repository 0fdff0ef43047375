"""Work that needs more than this command imports is done by a process of `jobs`."""

from __future__ import annotations

import os
import signal
import subprocess
from types import FrameType

from service.child import end_with_parent


def attached(command: list[str]) -> int:
    """Run a job that talks to the terminal itself; returns its exit code."""
    return _run(command, None)[0]


def answered(command: list[str]) -> tuple[int, str]:
    """Run a job that tells what it does on stderr; returns its exit code and what it printed on stdout."""
    return _run(command, subprocess.PIPE)


def _run(command: list[str], stdout: int | None) -> tuple[int, str]:
    """Run a job to its end.

    It has a session of its own, so that Ctrl-C reaches it once, through us: `subprocess.run` would kill it a quarter of
    a second later, and Ray's processes would hear it as well.
    """
    job = subprocess.Popen(command, stdout=stdout, text=True, start_new_session=True, preexec_fn=end_with_parent)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        job.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        printed = job.communicate()[0] or ""
        return job.returncode, printed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
