"""A stack from its first process to its last: the supervisor's life, and the end of a stack that has none."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping

from jobs.errors import RecoError
from service.backends.configured import configured
from service.child import python
from service.runs.database import Database, open_database
from service.runs.listing import RunList
from service.runs.store import RunStore
from service.settings import Settings, absolute_database, absolute_place
from service.stack.environment import MLFLOW, Places
from service.stack.first import make_first_token
from service.stack.kinds import check_programs, choose_ports, held_ports, parts_of
from service.stack.layout import Layout, write_private
from service.stack.parts import Part, launch
from service.stack.processes import Process
from service.stack.record import Options, Recorder, StackRecord, locked, read
from service.stack.saving import save_runs
from service.stack.supervisor import Supervisor, take_down

_log = logging.getLogger("reco.stack")

SAVE_S = 60.0
"""Longest time that runs may take to save before what they need is ended."""
BUSY = 3
"""Exit code of a supervisor that finds another at work."""
_LEAVING_S = 10.0
_POLL_S = 0.05


def launch_supervisor(layout: Layout, options: Options, *, tied: bool = False) -> subprocess.Popen[bytes]:
    """Start a supervisor; it ends at once where there is one already.

    Args:
        layout: Files of the stack.
        options: What it is to have.
        tied: It takes the stack down when this process ends; else it outlives it.
    """
    command = python("service.stack", str(layout.home), options.model_dump_json())
    environment = dict(os.environ)
    storage = environment.get("RECO_STORAGE")
    # Both are meant from where the user stands, and the supervisor stands elsewhere.
    if storage:
        environment["RECO_STORAGE"] = absolute_place(storage)
    if database := environment.get("RECO_DATABASE"):
        environment["RECO_DATABASE"] = absolute_database(database)
    return launch(command, layout.log("supervisor"), environment, cwd=layout.folder, tied=tied)


def supervise(layout: Layout, options: Options) -> int:
    """Bring a stack up and keep it up until SIGTERM or SIGINT, then take it down; SIGHUP starts what was given up.

    Returns:
        The exit code.
    """
    layout.make()
    deadline = time.monotonic() + _LEAVING_S
    while True:
        with locked(layout.lock) as mine:
            if mine:
                return _supervise(layout, options)
        # One that has noted that all is down, and has not ended yet, is not at work.
        if read(layout.record).supervised or time.monotonic() > deadline:
            return BUSY
        time.sleep(_POLL_S)


def _supervise(layout: Layout, options: Options) -> int:
    recorder = Recorder(layout.record, read(layout.record))
    me = Process.of(os.getpid())
    ended: list[int] = []
    # Until the parts are looked after, too: whoever is told to end remembers it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.append(1))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    recorder.set(supervisor=me, phase="running", problem="", hint=None, words="")
    try:
        with _Stack.prepared(recorder, layout, options) as stack:
            stack.keep_up(ended)
            stack.end()
    except (RecoError, OSError) as error:
        _log.error("the stack cannot be started: %s", error)
        hint = error.hint if isinstance(error, RecoError) else f"Its log is {layout.log('supervisor')}."
        message = error.message if isinstance(error, RecoError) else str(error)
        # What an earlier supervisor left running is still to be taken down.
        phase = "running" if recorder.record.any_alive else "down"
        recorder.set(phase=phase, supervisor=None, problem=message, hint=hint)
        return 1
    recorder.set(phase="down", supervisor=None)
    return 0


def bring_down(layout: Layout) -> bool:
    """End what is left of a stack whose supervisor is gone; False where somebody is at work on it."""
    layout.make()
    with locked(layout.lock) as mine:
        if not mine:
            return False
        record = read(layout.record)
        # Without a record, whatever a stack can have is looked for by its marks.
        options = record.options if record.parts else Options(s3=layout.folder)
        recorder = Recorder(layout.record, record)
        recorder.set(phase="stopping", supervisor=Process.of(os.getpid()))
        with _Stack.to_end(recorder, layout, options) as stack:
            stack.end()
        recorder.set(phase="down", supervisor=None)
    return True


class _Stack:
    """The parts, and what they share. Whoever makes one holds the lock.

    Args:
        recorder: What is known.
        layout: Its files.
        options: What it has.
        ports: Of everything that listens.
        told: Where database, runs and MLflow are; as the environment says if empty.
    """

    def __init__(
        self,
        recorder: Recorder,
        layout: Layout,
        options: Options,
        ports: Mapping[str, int],
        told: Mapping[str, str],
    ) -> None:
        record = recorder.record
        self._stale = any(port != record.ports.get(name, port) for name, port in ports.items())
        self._recorder, self._places = recorder, Places(layout, options, ports, told=told)
        self._opened: Database | None = None
        self._supervisor: Supervisor | None = None
        self._parts = parts_of(self._places, self._database, self._moved)
        if not self._places.tracking and "mlflow" in record.parts:
            self._places.tracking = record.parts["mlflow"].url  # what its other parts were told

    @classmethod
    def prepared(cls, recorder: Recorder, layout: Layout, options: Options) -> _Stack:
        """One that can be kept up.

        Raises:
            RecoError: It cannot.
            OSError: A file cannot be written.
        """
        check_programs(options)
        before = recorder.record
        if before.parts and before.options != options:
            _end_other(recorder, layout, before)
        ports = choose_ports(options, recorder.record.ports, held_ports(recorder.record))
        stack = cls(recorder, layout, options, ports, {})
        settings, tracking = stack._settings(), stack._places.others_tracking
        told = {"RECO_DATABASE": settings.database, "RECO_STORAGE": settings.storage}
        told |= {MLFLOW: tracking} if tracking else {}
        recorder.set(options=options, ports=ports, told=told)
        try:
            if make_first_token(stack._database(), layout):
                _log.info("made a token for the administrator: %s", layout.token)
        except BaseException:
            stack.close()
            raise
        return stack

    @classmethod
    def to_end(cls, recorder: Recorder, layout: Layout, options: Options) -> _Stack:
        """One of which what is left is to be ended: where it was, whoever listens there by now."""
        record = recorder.record
        anywhere = choose_ports(options.model_copy(update={"port": None}), {}, {})
        return cls(recorder, layout, options, anywhere | record.ports, record.told)

    def __enter__(self) -> _Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        if self._opened is not None:
            self._opened.close()

    def keep_up(self, ended: list[int]) -> None:
        """Keep the parts up until somebody wants them down, who may have said so before (`ended` is not empty)."""
        known = self._recorder.record.parts
        running = {
            name: part.process for name, part in known.items() if part.process is not None and part.process.alive
        }
        supervisor = self._supervisor = Supervisor(self._parts, self._recorder, up=self._is_up)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.let_go())
        signal.signal(signal.SIGHUP, lambda *_: supervisor.try_again())
        if self._stale:
            supervisor.start_anew(self._dependent())
        if ended:
            supervisor.let_go()
        supervisor.run(running)

    def end(self) -> None:
        """Let runs save, and end everything."""
        self._recorder.set(phase="stopping")
        take_down(self._parts, self._recorder, self._save)

    def _save(self) -> None:
        def say(words: str) -> None:
            if words != self._recorder.record.words:
                self._recorder.set(words=words)

        try:
            database, backends = self._database(), configured(self._settings())
            left = save_runs(RunStore(database), RunList(database), backends, say=say, within_s=SAVE_S)
        except RecoError as error:
            _log.warning("runs cannot be asked to save: %s", error)
            return
        if left:
            _log.warning("not saved, and going on from the last checkpoint: %s", ", ".join(left))

    def _settings(self) -> Settings:
        return Settings.from_environment(self._places.of_service())

    def _database(self) -> Database:
        if self._opened is None:
            self._opened = open_database(self._settings().database)
        return self._opened

    def _is_up(self, part: Part) -> None:
        if part.name != "mlflow":
            return
        try:
            write_private(self._places.layout.exports, self._places.exports())
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._places.layout.exports, error)

    def _moved(self) -> None:
        _log.warning("MLflow is at %s now: the other parts are started anew, to be told", self._places.tracking)
        if self._supervisor is not None:
            self._supervisor.start_anew(self._dependent())

    def _dependent(self) -> list[str]:
        """Parts that are told at their start where others are."""
        return [part.name for part in self._parts if part.name != "mlflow"]


def _end_other(recorder: Recorder, layout: Layout, before: StackRecord) -> None:
    """End what is left of a stack that was something else, and whose supervisor is gone."""
    if before.any_alive:
        with _Stack.to_end(recorder, layout, before.options) as other:
            other.end()
    recorder.set(parts={}, phase="running")
