"""Reads every byte of indexed shards and reports every sample that is not what the index promises."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from jobs.shards.decode import PictureError, decode
from jobs.shards.errors import IndexMismatchError, ShardError, SourceError
from jobs.shards.index import Root, ShardEntry, content_hash, load_root, read_records
from jobs.shards.indexing import Meter, Progress
from jobs.shards.records import ShardRecords
from jobs.shards.sources import Part, find_shards
from jobs.shards.tar import Scanned, scan_shard
from jobs.shards.verified import Fault, Verified
from jobs.storage import NotFoundError, Storage, StorageError, StoredObject

_CHANGED = "its bytes are not those that were indexed"


@dataclass(frozen=True)
class Verdict:
    """What verifying came to.

    Attributes:
        shards: How many were looked at, missing and unknown ones as well.
        samples: How many the index promises.
        faults: Everything that is wrong, shard by shard; a shard's own faults come before its samples'.
        before: How many of the shards an earlier verification had read that was stopped.
        began: The day when that began; empty where there was none.
    """

    shards: int
    samples: int
    faults: list[Fault]
    before: int = 0
    began: str = ""


def verify(
    source: str | Sequence[str],
    *,
    index: str | None = None,
    progress: Progress | None = None,
    record: Path | None = None,
    fresh: bool = False,
) -> Verdict:
    """Check shards against their index, byte by byte, and decode every picture.

    Whatever is wrong with one shard (cut, replaced, gone, unreadable), the others are still checked, and so are its own
    samples as far as they are there.

    Args:
        source: As for `open_dataset`.
        index: Where the index is kept, where it does not lie beside the shards.
        progress: Told of the bytes that are done.
        record: A local folder to note in what is done, until the end: verifying the same shards again after it was
            stopped goes on there. None notes nothing.
        fresh: Read everything, also what an earlier verification had read.

    Raises:
        SourceError: There are no such shards, or they have no index.
        IndexMismatchError: The index itself is damaged.
        StorageError: The storage cannot be asked at all.
    """
    work: list[_Work] = []
    for part in find_shards(source):
        work += _plan(part, index)
    meter = Meter(sum(item.now.size for item in work if item.now is not None), progress)
    verified = None
    if record is not None:
        content = content_hash(item.entry for item in work if item.entry is not None)
        verified = Verified(record, content, [item.url for item in work], fresh=fresh)
    with ThreadPoolExecutor(_threads(len(work)), thread_name_prefix="verify") as pool:
        try:
            found = list(pool.map(lambda item: item.find(meter, verified), work))
        except BaseException:
            meter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            if verified is not None:
                verified.keep()
            raise
    if verified is not None:
        # Shards that could not be read have yet to be verified: the same command then reads only those.
        if all(item.settled for item in found):
            verified.remove()
        else:
            verified.keep()
    before = sum(item.known for item in found)
    return Verdict(
        shards=len(work),
        samples=sum(item.entry.count for item in work if item.entry is not None),
        faults=[fault for item in found for fault in item.faults],
        before=before,
        began=verified.began if verified is not None and before else "",
    )


def _threads(shards: int) -> int:
    return min(max(4, os.cpu_count() or 1), shards)


def _plan(part: Part, index: str | None) -> list[_Work]:
    """What to check of one part: shards that are in the index, in the listing, or in both."""
    place, name = part.index_place(index)
    try:
        root: Root = load_root(place, name)
    except NotFoundError as error:
        raise SourceError(
            f"There is no index of {part.storage.url} to verify against.", hint="Make one with `reco data index`."
        ) from error
    listed = {shard.key: shard for shard in part.shards}
    entries = {entry.name: entry for entry in root.shards}
    names = sorted(entries.keys() | listed.keys())
    return [_Work(name, part.storage, place, entries.get(name), listed.get(name)) for name in names]


@dataclass(frozen=True)
class _Found:
    """What is wrong with one shard.

    Attributes:
        faults: All of it.
        settled: Whether that is for good, rather than for want of an answer.
        known: Whether an earlier verification found it.
    """

    faults: list[Fault]
    settled: bool = True
    known: bool = False


@dataclass
class _Work:
    """One shard: as it was indexed, and as it is now."""

    name: str
    storage: Storage
    place: Storage
    entry: ShardEntry | None
    now: StoredObject | None
    unanswered: bool = False
    """Whether something of it could not be read."""

    @property
    def url(self) -> str:
        """The shard's URL."""
        return f"{self.storage.url}/{self.name}"

    def find(self, meter: Meter, verified: Verified | None) -> _Found:
        """Look for everything that is wrong with the shard and its samples, unless that is known."""
        if verified is None or self.now is None or self.entry is None:
            return _Found(list(self._read(meter)), not self.unanswered)
        known = verified.faults(self.url, self.now, self.entry)
        if known is not None:
            meter.advance(self.now.size)
            return _Found(known, known=True)
        faults = list(self._read(meter))
        if not self.unanswered:
            verified.add(self.url, self.now, self.entry, faults)
        return _Found(faults, not self.unanswered)

    def _read(self, meter: Meter) -> Iterator[Fault]:
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            meter.advance(amount)

        yield from self._faults(advance)
        if self.now is not None:
            meter.advance(self.now.size - done)  # what a damaged shard kept from being read in one go

    def _faults(self, advance: Callable[[int], None]) -> Iterator[Fault]:
        shard, entry = self.url, self.entry
        if self.now is None or entry is None:
            yield Fault(shard, "", "it is in the index, and not there" if entry else "it is not in the index")
            return
        if self.now.size != entry.size:
            yield Fault(shard, "", f"it has {self.now.size:,} bytes, and had {entry.size:,} when it was indexed")
        elif self.now.etag != entry.etag:
            yield Fault(shard, "", "it was replaced since it was indexed (the same size, another tag)")
        scanned: Scanned | None = None
        try:
            records = read_records(self.place, entry)
            pictures = _Pictures(self.storage, self.now, records, advance)
            scanned = scan_shard(self.storage, self.now, advance, pictures.look)
        except ShardError as error:  # it cannot be read through, but what the index knows of can be looked at
            yield Fault(shard, "", error.message.removeprefix(shard).strip(" :."))
        except (IndexMismatchError, StorageError) as error:
            self.unanswered = True
            yield Fault(shard, "", f"it cannot be verified: {error.message}")
            return
        keys = records.names.decode().split("\0")
        names = _Names(scanned)
        for number, key in enumerate(keys):
            reason = pictures.reason(number) or names.reason(records, number, key)
            if reason is not None:
                yield Fault(shard, key, reason)
        for key in names.beyond(keys):
            yield Fault(shard, key, "it is not in the index")
        self.unanswered = pictures.unanswered
        for key, reason in records.left_out:
            yield Fault(shard, key, f"left out of the index: {reason}")


class _Names:
    """Compares keys and labels with those that a scan found, where there was one."""

    def __init__(self, scanned: Scanned | None) -> None:
        self._scanned = scanned
        self._at = {sample.offset: sample for sample in scanned.samples} if scanned else {}

    def reason(self, records: ShardRecords, number: int, key: str) -> str | None:
        """What is wrong with the key or label of a sample whose picture is right."""
        if self._scanned is None:
            return None
        found = self._at.get(int(records.offsets[number]))
        if found is None or found.key != key:
            return f"its picture is called {found.key} now" if found else "its picture is no sample's now"
        label = int(records.labels[number])
        return None if found.label == label else f"its label is {found.label}, and was {label} when it was indexed"

    def beyond(self, keys: Sequence[str]) -> list[str]:
        """Keys that the index does not have."""
        return sorted({sample.key for sample in self._scanned.samples} - set(keys)) if self._scanned else []


class _Pictures:
    """Checks the pictures of one shard as a scan shows them; those it does not show are fetched.

    Args:
        storage: Where the shard lies.
        shard: As it is now.
        records: What its index promises.
        advance: Called with 0 before each fetch; it raises where the work is to stop.
    """

    def __init__(
        self, storage: Storage, shard: StoredObject, records: ShardRecords, advance: Callable[[int], None]
    ) -> None:
        self._storage = storage
        self._shard = shard
        self._records = records
        self._advance = advance
        self._number = {offset: number for number, offset in enumerate(records.offsets.tolist())}
        self._seen: dict[int, str | None] = {}
        self.unanswered = False
        """Whether a picture could not be fetched."""

    def look(self, offset: int, data: bytes) -> None:
        """Check what lies at `offset`."""
        number = self._number.get(offset)
        if number is None:
            return
        reason = self._check(number, data)
        # What was wrong on the way is right the second time.
        self._seen[number] = reason if reason is None else self._fetch(number)

    def reason(self, number: int) -> str | None:
        """What is wrong with a sample; None where nothing is."""
        if number not in self._seen:
            self._seen[number] = self._fetch(number)
        return self._seen[number]

    def _fetch(self, number: int) -> str | None:
        self._advance(0)
        start = int(self._records.offsets[number])
        stop = start + int(self._records.lengths[number])
        if stop > self._shard.size:
            return "the shard ends before it does"
        try:
            return self._check(number, self._storage.read_range(self._shard.key, start, stop, etag=self._shard.etag))
        except StorageError as error:
            self.unanswered = True
            return f"it cannot be read ({error.message})"

    def _check(self, number: int, data: bytes) -> str | None:
        if len(data) != self._records.lengths[number] or google_crc32c.value(data) != self._records.crc32c[number]:
            return _CHANGED
        try:
            height, width, _ = decode(data).shape
        except PictureError as error:
            return error.message
        promised = int(self._records.heights[number]), int(self._records.widths[number])
        return None if (height, width) == promised else f"it has {width}×{height} pixels, and not as indexed"
