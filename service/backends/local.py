"""Jobs as processes on this machine, which outlive the process that submitted them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from service.backends import local_wrapper
from service.backends.base import Answer, Backend, BackendError, Job, LogPart, Status, UnreachableBackendError
from service.backends.local_wrapper import ENDED, STARTED, boot_id, start_ticks

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_START_S = 10.0
_LOG_PART = 1 << 20
_LOCK_AGAIN_S = 0.01


class _Started(BaseModel):
    boot: str
    pid: int
    ticks: int


class _Ended(BaseModel):
    exit_code: int
    stopped: bool
    words: str


_Noted = TypeVar("_Noted", _Started, _Ended)


class LocalBackend(Backend):
    """Each job is a process in a session of its own, with a second, small one beside it that knows how it ended.

    A job has a directory, named by its id: `lock`, `job.json` (what was asked for), `started.json` (which process
    watches over it), `ended.json` and `log`. Whoever holds the lock and finds no `started.json` starts the job; the
    watching process holds the lock too, until it has written that file. So of two submits at once one starts it, and
    a submit that was killed at any point leaves a job that is started or that the next one starts.

    A job gets the variables of the process that submitted it besides its own. `Job.cpus` is for places that have
    something to share out, and means nothing here.

    Args:
        folder: Where the jobs' directories are, on a disk of this machine; it is made.
        grace_s: How long a job may take to end when it is asked to.
        place: Where its jobs are, in other words than the folder's name.
    """

    name: ClassVar[str] = "local"

    def __init__(self, folder: Path, *, grace_s: float = 30.0, place: str | None = None) -> None:
        self._folder = folder.absolute()
        self._place = place or f"{self.name}:{self._folder}"
        self._grace_s = grace_s
        with self._reached():
            self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def place(self) -> str:
        """See `Backend.place`."""
        return self._place

    def submit(self, submission_id: str, job: Job) -> bool:
        """See `Backend.submit`."""
        folder = self._folder_of(submission_id)
        with self._reached():
            folder.mkdir(exist_ok=True)
            if (folder / STARTED).exists():
                return False
            with self._locked(folder) as lock:
                if (folder / STARTED).exists():
                    return False
                asked = {"command": [*job.command], "environment": {**job.environment}, "metadata": {**job.metadata}}
                local_wrapper.write_json(folder / "job.json", asked)
                self._start(folder, lock, job)
                return True

    def look(self, submission_id: str) -> Answer:
        """See `Backend.look`."""
        folder = self._folder_of(submission_id)
        with self._reached():
            started = _noted(folder / STARTED, _Started)
            if started is None:
                return self._not_started(folder)
            alive = _is_alive(started)  # asked first: who is dead by now has written what it ever will
            ended = _noted(folder / ENDED, _Ended)
            if ended is not None:
                status: Status = "stopped" if ended.stopped else "failed" if ended.exit_code else "succeeded"
                return Answer(status, ended.exit_code, ended.words)
            if alive:
                return Answer("running")
            if started.boot != boot_id():
                return Answer("failed", None, "it lost its host: the machine was started anew since")
            return Answer("failed", None, "the process that watched over it was killed, and the job with it")

    def stop(self, submission_id: str) -> None:
        """See `Backend.stop`."""
        with self._reached():
            started = _noted(self._folder_of(submission_id) / STARTED, _Started)
            if started is None or started.boot != boot_id():
                return
            try:
                process = os.pidfd_open(started.pid)
            except ProcessLookupError:
                return
            try:
                # The descriptor is of one process for good, so what is alive now is what is signalled.
                if _is_alive(started):
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process, signal.SIGTERM)
            finally:
                os.close(process)

    def log(self, submission_id: str, offset: int) -> LogPart:
        """See `Backend.log`."""
        path = self._folder_of(submission_id) / "log"
        ended = self.look(submission_id).ended  # asked first: then what is read is all there will be
        with self._reached():
            try:
                file = path.open("rb")
            except FileNotFoundError:
                return LogPart(b"", offset)
            with file:
                file.seek(offset)
                data = file.read(_LOG_PART)
                if b"\n" not in data:
                    data += file.readline()
                if not (ended and file.tell() >= os.fstat(file.fileno()).st_size):
                    data = data[: data.rfind(b"\n") + 1]
        return LogPart(data, offset + len(data))

    def kept(self) -> list[str]:
        """See `Backend.kept`."""
        with self._reached():
            return sorted(each.name for each in self._folder.iterdir() if _ID.fullmatch(each.name) and each.is_dir())

    def forget(self, submission_id: str) -> None:
        """See `Backend.forget`."""
        folder = self._folder_of(submission_id)
        if not folder.is_dir() or not self.look(submission_id).ended:
            return
        with self._reached():
            shutil.rmtree(folder)

    def _start(self, folder: Path, lock: int, job: Job) -> None:
        command = [sys.executable, "-I", "-S", local_wrapper.__file__, str(folder), str(lock), str(self._grace_s)]
        with (folder / "log").open("ab") as log:
            first = subprocess.Popen(
                [*command, *job.command],
                env={"PYTHONUNBUFFERED": "1", **os.environ, **job.environment},  # a log that lags behind misleads
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )
        try:
            code = first.wait(_START_S)
        except subprocess.TimeoutExpired as error:
            raise UnreachableBackendError(
                f"The job in {folder} was not started within {_START_S:g} s.",
                hint="This machine is overloaded; the job may start all the same.",
            ) from error
        if code == 0 or (folder / STARTED).exists():
            return
        if code > 0:
            raise BackendError(f"The job in {folder} cannot be started.", hint=f"Its log says why: {folder / 'log'}.")
        raise UnreachableBackendError(f"What was to start the job in {folder} was killed (signal {-code}).")

    def _not_started(self, folder: Path) -> Answer:
        """Of a job without a mark that it was started: it is being started right now, or never was."""
        if not self._folder.is_dir():
            raise UnreachableBackendError(
                f"{self._folder} is gone, and with it what is known of its jobs.", hint="Is its disk mounted?"
            )
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except FileNotFoundError:
            return Answer("absent")
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Answer("pending", words="it is being started")
        finally:
            os.close(lock)
        return Answer("absent") if _noted(folder / STARTED, _Started) is None else self.look(folder.name)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[int]:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + _START_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise UnreachableBackendError(
                            f"Another process has been starting the job in {folder} for {_START_S:g} s."
                        ) from error
                    time.sleep(_LOCK_AGAIN_S)
            yield lock
        finally:
            # Closed, never unlocked: an unlock would take the lock from the process that was started, too.
            os.close(lock)

    def _folder_of(self, submission_id: str) -> Path:
        if not _ID.fullmatch(submission_id):
            raise BackendError(
                f"{submission_id!r} cannot be the id of a job.",
                hint="Use up to 200 letters, digits, dots, underscores and dashes, a letter or digit first.",
            )
        return self._folder / submission_id

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreachableBackendError(
                f"The jobs in {self._folder} are not accessible: {error}.",
                hint="Look at its disk, and at the rights of this process.",
            ) from error


def _is_alive(started: _Started) -> bool:
    return started.boot == boot_id() and start_ticks(started.pid) == started.ticks


def _noted(path: Path, kind: type[_Noted]) -> _Noted | None:
    """A note of the watching process, which is whole or not there."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BackendError(f"{path} is damaged: {error}.", hint="Nothing is known of this job any more.") from error
