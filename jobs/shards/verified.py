"""What a verification has found so far, kept on local disk until its end, so that it can go on."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic

from jobs.shards.index import ShardEntry
from jobs.shards.journal import Journal
from jobs.storage import NotFoundError, StorageError, StoredObject, open_storage

_log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """Something that is wrong.

    Attributes:
        shard: The shard's URL.
        key: The sample's key; empty where the fault is the shard's.
        reason: What is wrong.
    """

    shard: str
    key: str
    reason: str


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _Shard(_Strict):
    """A shard that was read through."""

    size: int
    etag: str
    entry: ShardEntry
    """As it was indexed: a fault is a difference from that."""
    faults: tuple[tuple[str, str], ...]
    """Key and reason."""


class _File(_Strict):
    version: Literal[1]
    began: str
    shards: dict[str, _Shard]
    """By URL."""


class Verified:
    """The shards of a data set that a verification has been through. May be used from several threads.

    It only saves time, so a disk that cannot be written costs a warning, and what cannot be read is begun anew.

    Args:
        folder: On a local disk; holds a file for each verification that is not at its end.
        content: Hash of the data set.
        urls: Of its shards: copies of a data set at several places are verified each for itself.
        fresh: Forget what an earlier verification has found.
    """

    def __init__(self, folder: Path, content: str, urls: Sequence[str], *, fresh: bool = False) -> None:
        self._place = open_storage(str(folder))
        self._name = f"{content[:32]}-{hashlib.sha256(chr(10).join(urls).encode()).hexdigest()[:12]}.json"
        found = None if fresh else self._load()
        self.began = found.began if found else datetime.now(UTC).date().isoformat()
        """Day of the first of the verifications that this one goes on with."""
        self._shards = dict(found.shards) if found else {}
        self._lock = threading.Lock()
        self._journal = Journal(self._place, self._name, self._render)
        self._works = True

    def faults(self, url: str, now: StoredObject, entry: ShardEntry) -> list[Fault] | None:
        """What was wrong with a shard; None where it has yet to be read, or was changed or indexed anew since."""
        known = self._shards.get(url)
        if known is None or (known.size, known.etag, known.entry) != (now.size, now.etag, entry):
            return None
        return [Fault(url, key, reason) for key, reason in known.faults]

    def add(self, url: str, now: StoredObject, entry: ShardEntry, faults: Sequence[Fault]) -> None:
        """Note that a shard was read to its end."""
        pairs = tuple((fault.key, fault.reason) for fault in faults)
        with self._lock:
            self._shards[url] = _Shard(size=now.size, etag=now.etag, entry=entry, faults=pairs)
        self._attempt(self._journal.note)

    def keep(self) -> None:
        """Write down what is done."""
        if self._shards:
            self._attempt(self._journal.keep)

    def remove(self) -> None:
        """The verification is at its end: the next one reads everything."""
        self._attempt(self._journal.remove)

    def _attempt(self, step: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            step()
        except StorageError as error:
            self._works = False
            _log.warning("what is verified cannot be noted, so it could not go on if it were stopped (%s)", error)

    def _load(self) -> _File | None:
        try:
            return _File.model_validate_json(self._place.read(self._name))
        except (NotFoundError, ValueError):
            return None  # never begun, or begun by another version
        except StorageError as error:
            _log.warning("the record of an earlier verification cannot be read (%s)", error)
            return None

    def _render(self) -> bytes:
        with self._lock:
            return _File(version=1, began=self.began, shards=dict(self._shards)).model_dump_json().encode()
