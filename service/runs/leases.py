"""Leases: of several processes one leads, until it stops saying so; what an earlier leader writes is refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.runs.database import Database
from service.runs.errors import NotLeaderError
from service.runs.schema import LeaseModel


@dataclass(frozen=True)
class Lease:
    """The right to do what only one may.

    Attributes:
        name: Of what.
        holder: Who has it.
        until: When it ends unless it is renewed.
        fence: Number of this holding; the next holder's is higher.
    """

    name: str
    holder: str
    until: datetime
    fence: int


class Leases:
    """Takes, renews and gives back leases, each by one comparing write.

    The clock decides who may take a lease over, never what is written under it: a leader whose clock is wrong, or that
    was paused between looking at its clock and writing, has an old fencing number, and `check` refuses it.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        """Take a lease that is free, has ended, or is the holder's already; None while another has it.

        Args:
            name: Of what.
            holder: Who asks: a name that no other process has, and no earlier life of this one.
            seconds: For how long.
        """
        now = self._database.clock()
        until = now + timedelta(seconds=seconds)
        try:
            with self._database.writing() as session:
                row = session.get(LeaseModel, name)
                if row is None:
                    session.execute(insert(LeaseModel).values(name=name, holder=holder, until=until, fence=1))
                    return Lease(name, holder, until, 1)
                mine = row.holder == holder and row.until > now
                if row.until > now and not mine:
                    return None
                fence = row.fence if mine else row.fence + 1
                taken = session.execute(
                    update(LeaseModel)
                    .where(LeaseModel.name == name, LeaseModel.fence == row.fence, LeaseModel.until == row.until)
                    .values(holder=holder, until=until, fence=fence)
                    .returning(LeaseModel.fence)
                    .execution_options(synchronize_session=False)
                )
                return Lease(name, holder, until, fence) if taken.first() else None
        except IntegrityError:
            return None  # another was the first to take it

    def renew(self, lease: Lease, *, seconds: float) -> Lease | None:
        """Hold it for longer; None where it is another's by now, or was given back.

        A lease that ended, and that nobody has taken, may still be renewed: nobody led in between.
        """
        until = self._database.clock() + timedelta(seconds=seconds)
        return Lease(lease.name, lease.holder, until, lease.fence) if self._set(lease, until, lease.fence) else None

    def release(self, lease: Lease) -> bool:
        """Give it back, so that nobody waits for its end; False where it was another's already.

        The number grows: what the holder may still be about to write is refused.
        """
        return self._set(lease, self._database.clock(), lease.fence + 1)

    def current(self, name: str) -> Lease | None:
        """The lease as it is; None where nobody ever took it."""
        with self._database.reading() as session:
            row = session.get(LeaseModel, name)
            return None if row is None else Lease(row.name, row.holder, row.until, row.fence)

    def _set(self, lease: Lease, until: datetime, fence: int) -> bool:
        with self._database.writing() as session:
            changed = session.execute(
                update(LeaseModel)
                .where(LeaseModel.name == lease.name, LeaseModel.fence == lease.fence)
                .values(until=until, fence=fence)
                .returning(LeaseModel.fence)
                .execution_options(synchronize_session=False)
            )
            return changed.first() is not None


def check(session: Session, lease: Lease) -> None:
    """Do nothing while the lease was not taken by another; it cannot be until this session's transaction ends.

    Raises:
        NotLeaderError: Another took it.
    """
    fence = session.scalar(select(LeaseModel.fence).where(LeaseModel.name == lease.name).with_for_update(read=True))
    if fence != lease.fence:
        raise NotLeaderError(
            f"{lease.holder} does not lead any more: its number is {lease.fence}, the newest {fence}.",
            hint="Nothing was written; the new leader looks at everything anew.",
        )
