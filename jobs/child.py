"""A process that works for this one: start it, talk to it, notice when it is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path

from jobs.errors import RecoError

_log = logging.getLogger(__name__)

_END_S = 5.0
# What a read receives is allocated and dropped a megabyte at a time. By default glibc gives such pieces back to the
# system each time, which then zeroes them anew: a quarter of the CPU of receiving. These keep up to 40 MB.
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TOP_PAD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


class DiedError(Exception):
    """The process is gone."""


class Child:
    """A process that runs; it ends when this end of its connection is closed, by whatever.

    Args:
        module: What it runs, with the descriptor of its end of the connection as the only argument.
    """

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ray's workers find this package where their driver did, which only their own sys.path may say.
                env={**_ALLOCATOR, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C in a terminal is the trainer's business: it saves, then ends this
            )
        self._connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        """CPU seconds it has spent."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Tell it something, with a file descriptor where one belongs to it.

        Raises:
            DiedError: It is gone.
        """
        with _death_noticed():
            self._connection.send(message)
            if descriptor is not None:
                send_handle(self._connection, descriptor, self.pid)

    def receive(self, timeout: float) -> object | None:
        """What it says next; None where nothing comes in so many seconds.

        Raises:
            DiedError: It is gone.
        """
        with _death_noticed():
            return self._connection.recv() if self._connection.poll(timeout) else None

    def end(self, *, kill: bool = False) -> int:
        """End it, at once where it does not deserve better; returns its exit code."""
        self._connection.close()  # it ends by itself when it sees this
        if kill:
            self._process.kill()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def portable(error: BaseException, *, who: str) -> BaseException:
    """An error as the process that waits for `who` can raise it: as it is where it explains itself, else in words."""
    if isinstance(error, RecoError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever a class lacks for it, the words are kept
            plain = RecoError(error.message, hint=error.hint)
            plain.exit_code = error.exit_code
            return plain
        return error
    _log.error("the %s failed", who, exc_info=error)
    return RecoError(f"The {who} failed: {type(error).__name__}: {error}.", hint="Its log above has the traceback.")


@contextlib.contextmanager
def _death_noticed() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise DiedError(str(error)) from error
