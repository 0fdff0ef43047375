"""What is known of a stack, in `stack.json`: which processes are its parts, where they listen, and how they are."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.stack.layout import write_private
from service.stack.processes import Process

_log = logging.getLogger("reco.stack")

PartState = Literal["waiting", "starting", "up", "restarting", "failed", "stopping", "stopped"]
"""`waiting` for another part; `restarting`: it died, and is started again after a while; `failed`: too often."""
Phase = Literal["running", "stopping", "down"]


class Options(BaseModel):
    """What was asked for when the stack was started.

    Attributes:
        ray: With a Ray head; without one, runs are processes of this machine.
        s3: Folder whose folders an S3 server offers as buckets; None for no such server.
        port: Of the API; None for the usual one, or any free one.
        cpus: That Ray may share out; None for all cores.
    """

    model_config = ConfigDict(frozen=True)

    ray: bool = True
    s3: Path | None = None
    port: int | None = None
    cpus: int | None = None


class PartRecord(BaseModel):
    """How a part is.

    Attributes:
        state: See `PartState`.
        process: The one that was started last.
        url: Where it answers.
        log: What it prints.
        since: When it got into this state, in seconds since the epoch.
        restarts: How often it died and was started again since it was last well for long.
        words: What there is to say of it.
    """

    state: PartState = "waiting"
    process: Process | None = None
    url: str = ""
    log: str = ""
    since: float = 0.0
    restarts: int = 0
    words: str = ""


class StackRecord(BaseModel):
    """All of it.

    Attributes:
        phase: Where it is going.
        supervisor: Who keeps the parts up.
        options: What was asked for.
        ports: By name; taken again as far as they are free.
        told: Variables that say where database and runs are, and MLflow where it is another's: who takes the stack down
            may stand in another shell.
        parts: By name, in the order in which they are started.
        words: What is being done besides starting and stopping parts.
        problem: Why it could not be started at all.
        hint: What to do about that.
    """

    phase: Phase = "down"
    supervisor: Process | None = None
    options: Options = Options()
    ports: dict[str, int] = Field(default_factory=dict)
    told: dict[str, str] = Field(default_factory=dict, repr=False)
    parts: dict[str, PartRecord] = Field(default_factory=dict)
    words: str = ""
    problem: str = ""
    hint: str | None = None

    @property
    def supervised(self) -> bool:
        """Whether its supervisor is alive."""
        return self.supervisor is not None and self.supervisor.alive

    @property
    def any_alive(self) -> bool:
        """Whether a part's process is there."""
        return any(part.process is not None and part.process.alive for part in self.parts.values())


def read(path: Path) -> StackRecord:
    """The record; one of nothing where there is none or it is damaged: processes can be found without it."""
    try:
        return StackRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return StackRecord()
    except ValidationError as error:
        _log.warning("%s is damaged and is written anew: %s", path, error)
        return StackRecord()


class Recorder:
    """Changes a record, and writes it with every change; for many threads, and only for who holds the stack's lock.

    Args:
        path: Of the record.
        record: As it is so far.
    """

    def __init__(self, path: Path, record: StackRecord) -> None:
        self._path, self.record = path, record
        self._lock = threading.Lock()

    def set(self, **changes: Any) -> None:  # noqa: ANN401 - checked when it is read
        """Change the stack's own fields."""
        with self._lock:
            self.record = self.record.model_copy(update=changes)
            self._write()

    def part(self, name: str, **changes: Any) -> None:  # noqa: ANN401 - checked when it is read
        """Change what is known of one part."""
        with self._lock:
            before = self.record.parts.get(name, PartRecord())
            if changes.get("state", before.state) != before.state:
                changes["since"] = time.time()
            changed = before.model_copy(update=changes)
            if changed != before or name not in self.record.parts:
                self.record.parts[name] = changed
                self._write()

    def _write(self) -> None:
        try:
            write_private(self._path, self.record.model_dump_json())  # the database's address may hold a password
        except OSError as error:  # a full disk ends no part; the next change is written with this one
            _log.warning("%s cannot be written: %s", self._path, error)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the right to change the stack, if nobody else does; says whether. It ends with this process, too."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.set_inheritable(file.fileno(), False)  # no part may hold it on
        yield True
