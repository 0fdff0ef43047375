"""The leader as a part of the stack: it is well when it leads itself, and no other of this machine may in its place."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from threading import Event

import psutil

from jobs.errors import RecoError
from service.backends.local_wrapper import boot_id
from service.child import python
from service.runs.database import Database
from service.runs.leadership import local_leader, somebody_leads
from service.runs.leases import Leases
from service.stack.environment import Places
from service.stack.parts import Program, end
from service.stack.processes import STACK, Process

_log = logging.getLogger("reco.stack")


class Leader(Program):
    """The process that works on what is stored.

    A command without a stack starts a leader as well, which knows nothing of this one's Ray head: what it begins are
    processes of this machine. So one of those is told to end, when the stack's own is started and when that has ended;
    it gives the lease back, and its jobs go on.

    Args:
        places: Where the parts are.
        database: Of the store, open.
        needs: Parts that must be up before it is started.
    """

    def __init__(self, places: Places, database: Callable[[], Database], *, needs: tuple[str, ...]) -> None:
        super().__init__(
            "leader",
            lambda: python("service.leader"),
            places.layout,
            environment=places.of_service,
            well=self._not_leading,
            words="service.leader",
            needs=needs,
        )
        self._database = database

    def start(self, stopping: Event) -> Process | None:
        """See `Part.start`."""
        self._end_other()
        return super().start(stopping)

    def stop(self, process: Process | None) -> None:
        """See `Part.stop`."""
        super().stop(process)
        self._end_other()

    def _not_leading(self, process: Process) -> str | None:
        try:
            database = self._database()
            leases = Leases(database)
            if not somebody_leads(leases, database.clock):
                return "nobody leads yet"
            if local_leader(leases, database.clock) == (process.pid, process.ticks):
                return None
        except RecoError as error:
            return error.message
        return "another process leads"

    def _end_other(self) -> None:
        try:
            database = self._database()
            found = local_leader(Leases(database), database.clock)
        except RecoError as error:
            _log.warning("nobody knows whether another process leads: %s", error)
            return
        if found is None or found[0] == os.getpid():
            return
        other = Process(pid=found[0], ticks=found[1], boot=boot_id())
        if self._of_another_stack(other):
            return  # two stacks that share a database would end each other's leader for ever
        _log.info("process %d leads, and is no part of this: it is told to end", other.pid)
        try:
            end(other, self.grace_s)
        except PermissionError:
            _log.warning("process %d is another user's and goes on leading", other.pid)

    def _of_another_stack(self, process: Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(process.pid).environ().get(STACK) not in (None, str(self._layout.home))
        return False
