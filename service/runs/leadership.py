"""Leading: of all processes that would, one does, for as long as it keeps saying so."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from datetime import timedelta
from pathlib import Path

from jobs.errors import RecoError
from service.backends.local_wrapper import boot_id, start_ticks
from service.runs.database import Clock
from service.runs.errors import NotLeaderError
from service.runs.leases import Lease, Leases

_log = logging.getLogger("reco.leader")

LEASE = "leader"
"""Name of the lease."""


class Leadership:
    """One process's wish to lead.

    Args:
        leases: Of which one says who leads.
        clock: What time it is.
        seconds: Another may lead, once this process has said nothing for so long.
        holder: Name of this process, which no other has or had.
    """

    def __init__(self, leases: Leases, clock: Clock, *, seconds: float, holder: str | None = None) -> None:
        self._leases, self._clock, self._seconds = leases, clock, seconds
        self._holder = holder or _this_process()
        self._lease: Lease | None = None

    def renew(self) -> bool:
        """Lead for longer, if this process does; whether it does."""
        if self._lease is not None:
            self._lease = self._leases.renew(self._lease, seconds=self._seconds)
        return self._lease is not None

    def take(self) -> bool:
        """Begin to lead, if nobody else does; whether this process leads now.

        A holder that was killed on this machine is not waited for.
        """
        before = self._leases.current(LEASE)
        if before is not None and before.until > self._clock() and _is_dead(before.holder):
            self._leases.release(before)
        self._lease = self._leases.acquire(LEASE, self._holder, seconds=self._seconds)
        if self._lease is not None:
            _log.info("%s leads (number %d)", self._holder, self._lease.fence)
        return self._lease is not None

    def held(self) -> Lease:
        """The lease, renewed in time: a pass over many runs may be longer than it holds.

        Raises:
            NotLeaderError: It is another's.
        """
        if self._lease is not None and self._lease.until - self._clock() < timedelta(seconds=self._seconds / 2):
            self._lease = self._leases.renew(self._lease, seconds=self._seconds)
        if self._lease is None:
            raise NotLeaderError(f"{self._holder} does not lead any more.", hint="The new leader looks anew.")
        return self._lease

    def lose(self) -> None:
        """Forget the lease: it is another's, or is to be taken anew."""
        self._lease = None

    def release(self) -> None:
        """Let another lead at once."""
        if self._lease is not None:
            with contextlib.suppress(RecoError):  # it ends by itself, a little later
                self._leases.release(self._lease)
            self._lease = None

    def another_leads(self) -> bool:
        """Whether another process leads; this one may hold the lease though it could not make a pass."""
        lease = self._leases.current(LEASE)
        return lease is not None and lease.holder != self._holder and _leads(lease, self._clock)


def somebody_leads(leases: Leases, clock: Clock) -> bool:
    """Whether a process leads: the lease has not ended, and its holder is not known to be dead."""
    lease = leases.current(LEASE)
    return lease is not None and _leads(lease, clock)


def local_leader(leases: Leases, clock: Clock) -> tuple[int, int] | None:
    """Number and start (in the kernel's ticks) of the process that leads, where it is one of this machine."""
    lease = leases.current(LEASE)
    if lease is None or not _leads(lease, clock):
        return None
    match lease.holder.split("/"):
        case [_, place, pid, ticks, _] if place == _place():
            return int(pid), int(ticks)
        case _:
            return None


def _leads(lease: Lease, clock: Clock) -> bool:
    return lease.until > clock() and not _is_dead(lease.holder)


def _this_process() -> str:
    """A name that tells others on this machine whether the process is alive, and that no later one has."""
    pid = os.getpid()
    return "/".join((socket.gethostname(), _place(), str(pid), str(start_ticks(pid)), secrets.token_hex(4)))


def _place() -> str:
    """Where numbers of processes mean the same: one start of a machine, and one container on it."""
    return f"{boot_id()[:8]}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _is_dead(holder: str) -> bool:
    """Whether the process of that name was one of this place and is gone; of others nobody knows here."""
    match holder.split("/"):
        case [_, place, pid, ticks, _] if place == _place():
            return str(start_ticks(int(pid))) != ticks
        case _:
            return False
