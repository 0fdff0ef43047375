"""Logs of attempts, copied into the run's folder while their jobs run, so that they outlive the cluster."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.storage import Storage
from service.backends.base import Backend, LogPart

_PARTS_PER_LOOK = 64  # a job that prints without end must not keep the leader from other runs


class RunLog:
    """The log of one attempt, as its run's folder keeps it: parts, each named by the offset that it begins at.

    A part is created whole and never changed, so two processes that copy at once cannot double or cut a line: one
    creates the part, and the other goes on behind it. Where a storage ignores the condition, parts may overlap or leave
    a gap; reading passes over the one, and copying goes on at the other.

    Args:
        storage: The run's folder.
        attempt: Number of the attempt.
    """

    def __init__(self, storage: Storage, attempt: int) -> None:
        self._storage = storage
        self._parts = f"logs/a{attempt}/part-"
        self._complete = f"logs/a{attempt}/complete"

    def read(self, offset: int, *, limit: int = 1 << 20) -> LogPart:
        """What the log says from an offset on, in whole lines; empty where there is no more yet.

        Args:
            offset: In bytes: 0, or the `next_offset` of the read before.
            limit: Most bytes; a line that is longer comes in pieces.
        """
        found = bytearray()
        end = 0
        for start, size in self._listed():
            if start > end:
                break  # a gap: what lies behind it comes once it is filled
            if start + size <= end:
                continue
            end = start + size
            if end <= offset:
                continue
            first = offset + len(found)
            found += self._storage.read_range(self._key(start), first - start, min(size, offset + limit - start))
            if len(found) >= limit:
                if cut := found.rfind(b"\n") + 1:
                    del found[cut:]
                break
        return LogPart(bytes(found), offset + len(found))

    def end(self) -> int:
        """Bytes that are kept from the beginning on, without a gap."""
        end = 0
        for start, size in self._listed():
            if start > end:
                break
            end = max(end, start + size)
        return end

    def append(self, offset: int, data: bytes) -> bool:
        """Keep the part at an offset; False where one that begins there is kept already."""
        return self._storage.create(self._key(offset), data)

    def complete(self) -> None:
        """Say that nothing more will come."""
        self._storage.write(self._complete, b"")

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come."""
        return self._storage.exists(self._complete)

    def _key(self, offset: int) -> str:
        return f"{self._parts}{offset:015d}.log"

    def _listed(self) -> list[tuple[int, int]]:
        """Begin and size of every part, in order."""
        named = ((stored.key.removeprefix(self._parts), stored.size) for stored in self._storage.list(self._parts))
        return [(int(name.removesuffix(".log")), size) for name, size in named]


@dataclass(frozen=True)
class _Place:
    """Where copying goes on, and when it last did."""

    offset: int
    at: datetime


class LogCopies:
    """Copies logs from backends to folders, and remembers how far each is, so that folders are seldom listed.

    What it remembers may be lost at any time: the folder says how far the copy is.

    Args:
        every_s: A log that grows slowly is copied this often, so that it does not become thousands of small parts.
    """

    def __init__(self, *, every_s: float = 30.0) -> None:
        self._every = timedelta(seconds=every_s)
        self._places: dict[str, _Place] = {}

    def copy(self, backend: Backend, submission: str, log: RunLog, now: datetime, *, ended: bool) -> bool:
        """Copy what a job has printed since the last time.

        Args:
            backend: That has the job.
            submission: The job.
            log: Where to.
            now: The time.
            ended: The backend had said that the job has ended, so what it has printed by now is all.

        Returns:
            Whether the copy is complete: the job has ended, and all of it is kept.

        Raises:
            UnreachableBackendError: The backend did not answer; what was copied stays.
            StorageError: The folder did not; likewise.
        """
        place = self._places.get(submission)
        if place is not None and not ended and now - place.at < self._every:
            return False
        if ended and log.is_complete:
            self._places.pop(submission, None)
            return True
        # At the end it is asked for again: a part that was written and not heard of, or one that another leader wrote.
        offset = log.end() if place is None or ended else place.offset
        for _ in range(_PARTS_PER_LOOK):
            part = backend.log(submission, offset)
            if not part.data:
                self._places[submission] = _Place(offset, now)
                if ended:
                    log.complete()
                    self._places.pop(submission, None)
                return ended
            if not log.append(offset, part.data):
                offset = log.end()  # another leader was here
                continue
            offset += len(part.data)
        self._places[submission] = _Place(offset, now)
        return False

    def keep(self, submissions: Collection[str]) -> None:
        """Forget all others."""
        self._places = {submission: place for submission, place in self._places.items() if submission in submissions}
