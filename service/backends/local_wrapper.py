"""The process beside a local job: it starts the job, passes on the wish to stop, and writes down how it ended.

A script of its own, with nothing but the standard library: it starts in milliseconds, and stays small for the days a
job takes. `service/backends/local.py` starts it as

    python -I -S local_wrapper.py FOLDER LOCK GRACE PROGRAM [ARGUMENT ...]

where LOCK is the descriptor of the locked file that lets one submit at a time start this job.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STARTED = "started.json"
"""Written before the job is started: from then on its id starts nothing."""
ENDED = "ended.json"
"""Written when the job has ended."""
NOT_STARTED = 127
"""The exit code of a program that cannot be run, as a shell has it."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def boot_id() -> str:
    """Which start of this machine is under way."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process was started, in the kernel's ticks since the machine was; None where it is gone or a zombie.

    With `boot_id` this names a process for good. Ticks, because what is made of them and the wall clock moves when the
    clock is set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def write_json(path: Path, content: object) -> None:
    """Write a file that is whole or not there, also after the machine went down."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main(arguments: list[str]) -> None:
    """Detach, say who watches over the job, start it, wait for its end, and say how it was."""
    folder, lock, grace_s, command = Path(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3:]
    # From here on these two wait for `_watch`, so that none comes too early.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where the submitter ignored it, no exit code could be had
    _detach(folder, lock)
    write_json(folder / ENDED, _run(command, grace_s))


def _detach(folder: Path, lock: int) -> None:
    """Go on in a process that has no parent here, so that it is nobody's to reap; the first one ends when that is on
    disk, which tells the submitter that the job is started."""
    heard, told = os.pipe()
    if os.fork():
        os.close(told)
        os._exit(0 if os.read(heard, 1) else 1)
    os.close(heard)
    os.setsid()
    write_json(folder / STARTED, {"boot": boot_id(), "pid": os.getpid(), "ticks": start_ticks(os.getpid())})
    # This process has held the lock with its submitter. Had that one been killed before now, the next one would still
    # have waited, and not started a second.
    os.close(lock)
    os.write(told, b".")
    os.close(told)


def _run(command: list[str], grace_s: float) -> dict[str, object]:
    watcher = os.getpid()

    def prepare() -> None:
        # The job must not outlive who watches over it: it would train on while everybody takes it for ended.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher:
            os._exit(NOT_STARTED)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # as a shell would start it, whatever the submitter ignores or blocks
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    try:
        job = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare)
    except OSError as error:
        words = f"{command[0]} cannot be run: {error.strerror}"
        sys.stderr.write(f"{words}\n")
        return {"exit_code": NOT_STARTED, "stopped": False, "words": words}
    return _watch(job, grace_s)


def _watch(job: subprocess.Popen[bytes], grace_s: float) -> dict[str, object]:
    kill_at: float | None = None
    words = ""
    # Not reaped yet: as long as it is a zombie, its process group cannot be another one's.
    while os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        wait_s = 3600.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
        heard = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, wait_s)
        if heard is not None and heard.si_signo == signal.SIGTERM and kill_at is None:
            # Once, however often it is asked: a job takes a second one as the wish to end at once. And the job alone:
            # a Ray cluster of its own is in its process group, and would lose its dashboard before the job has saved.
            os.kill(job.pid, signal.SIGTERM)
            kill_at = time.monotonic() + grace_s
        elif kill_at is not None and time.monotonic() >= kill_at:
            words = f"it had not ended {grace_s:g} s after it was asked to, and was killed"
            os.killpg(job.pid, signal.SIGKILL)
            kill_at = time.monotonic() + 1.0  # the kernel may take its time; look again then
    os.killpg(job.pid, signal.SIGKILL)  # what it left behind
    return {"exit_code": job.wait(), "stopped": kill_at is not None, "words": words}


if __name__ == "__main__":
    main(sys.argv[1:])
