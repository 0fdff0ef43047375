"""The index of a folder's shards: built once, written beside them, checked whenever it is opened.

A file per shard holds its samples and depends on nothing but them, so its SHA-256 is the shard's content hash, the same
wherever the shard lies. The root names the shards with size, tag and those hashes; it is written last.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pydantic

from jobs.shards.errors import IndexMismatchError
from jobs.shards.records import VERSION, ShardRecords, from_columns, sha256, to_columns
from jobs.shards.sources import Part
from jobs.shards.tar import scan_shard
from jobs.storage import AccessDeniedError, NotFoundError, Storage, StoredObject

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; from any thread, one call at a time."""

_THREADS = 4
_REBUILD = "If that is meant, run `reco data index --rebuild` on it."


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ShardEntry(_Strict):
    """What the root says of one shard."""

    name: str
    size: int
    etag: str
    count: int
    """Samples."""
    sha256: str
    """Of the shard's index file: the hash of its content."""
    bytes: int
    """Of the shard's index file."""
    max_height: int
    max_width: int
    max_pixels: int
    """Height times width of one picture, at most."""
    labelled: int
    """Samples that have a label."""
    classes: int
    """Largest label + 1."""
    left_out: int
    """Samples that cannot be used; the shard's file names them."""


class Root(_Strict):
    """The root of an index."""

    version: int
    content: str
    """Hash over the shards' content, in order."""
    shards: tuple[ShardEntry, ...]


def content_hash(entries: Iterable[ShardEntry]) -> str:
    """SHA-256 over the version and the shards' own hashes, in order: neither names nor places count."""
    return sha256("\n".join([f"index {VERSION}", *(entry.sha256 for entry in entries)]).encode())


def open_index(part: Part, index: str | None, *, progress: Progress | None = None, rebuild: bool = False) -> Root:
    """Load a part's index and check it against the listing; build it where there is none.

    Args:
        part: The shards.
        index: Where indexes are kept, None for beside the shards.
        progress: Told of the work of building.
        rebuild: Build it even where there is one.

    Raises:
        IndexMismatchError: Shards were changed, added or removed since, or the index is damaged.
        ShardError: A shard cannot be indexed.
        StorageError: Something cannot be read or written.
    """
    place, name = part.index_place(index)
    if not rebuild:
        with contextlib.suppress(NotFoundError):
            root = _parse_root(place.read(name), place, name)
            _compare(part, root)
            return root
    return _build(part, place, name, progress)


def read_records(place: Storage, entry: ShardEntry) -> ShardRecords:
    """Load one shard's file of the index at `place`.

    Raises:
        IndexMismatchError: It is not the one the root promises.
    """
    key = _file_of(entry.name)
    try:
        data = place.read_range(key, 0, entry.bytes)
    except NotFoundError as error:
        raise IndexMismatchError(f"The index {place.url} lacks {key}.", hint=_REBUILD) from error
    if sha256(data) != entry.sha256:
        raise IndexMismatchError(f"{place.url}/{key} is not what its root promises.", hint=_REBUILD)
    return from_columns(data)


def copy_index(root: Root, place: Storage, part: Part) -> Root:
    """Copy an index to beside copies of the same shards, under the tags that the copies have.

    Args:
        root: Of the index at `place`.
        place: Where it is copied from.
        part: The copied shards, as listed.

    Raises:
        IndexMismatchError: The copies are not as many, or not as large.
        StorageError: Something cannot be read or written.
    """
    listed = {shard.key: shard for shard in part.shards}
    for entry in root.shards:
        if entry.name not in listed or listed[entry.name].size != entry.size:
            raise IndexMismatchError(f"{part.storage.url}/{entry.name} did not arrive whole.", hint="Copy it again.")
    target, name = part.index_place(None)
    for entry in root.shards:
        file = _file_of(entry.name)
        target.write(file, place.read_range(file, 0, entry.bytes))
    shards = tuple(entry.model_copy(update={"etag": listed[entry.name].etag}) for entry in root.shards)
    copied = root.model_copy(update={"shards": shards})
    target.write(name, copied.model_dump_json().encode())
    return copied


def _file_of(shard: str) -> str:
    return f"{shard}.json"


def _parse_root(data: bytes, place: Storage, name: str) -> Root:
    where = f"{place.url}/{name}"
    try:
        version = json.loads(data)["version"]
        if version != VERSION:
            raise IndexMismatchError(f"{where} has version {version}; this program reads {VERSION}.", hint=_REBUILD)
        root = Root.model_validate_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise IndexMismatchError(f"{where} is damaged: it is no index.", hint=_REBUILD) from error
    if content_hash(root.shards) != root.content:
        raise IndexMismatchError(f"{where} is damaged: its hashes do not fit together.", hint=_REBUILD)
    return root


def _compare(part: Part, root: Root) -> None:
    """Refuse an index of other shards than those that are there."""
    listed = {shard.key: shard for shard in part.shards}
    known = {entry.name: entry for entry in root.shards}
    url = part.storage.url
    for what, names in (("added", listed.keys() - known.keys()), ("removed", known.keys() - listed.keys())):
        if names:
            first = f"{len(names)} {'shard was' if len(names) == 1 else 'shards were'} {what}, {min(names)} first"
            raise IndexMismatchError(f"{url} was indexed before {first}.", hint=_REBUILD)
    for name, shard in listed.items():
        if (shard.size, shard.etag) != (known[name].size, known[name].etag):
            raise IndexMismatchError(f"{url}/{name} was changed since it was indexed.", hint=_REBUILD)


def _build(part: Part, place: Storage, name: str, progress: Progress | None) -> Root:
    shards = part.shards
    meter = _Meter(sum(shard.size for shard in shards), progress)

    def index(shard: StoredObject) -> ShardEntry:
        samples, left_out = scan_shard(part.storage, shard, meter.advance)
        data = to_columns(samples, left_out)
        with _explained(place):
            place.write(_file_of(shard.key), data)
        labels = [sample.label for sample in samples]
        return ShardEntry(
            name=shard.key,
            size=shard.size,
            etag=shard.etag,
            count=len(samples),
            sha256=sha256(data),
            bytes=len(data),
            max_height=max(sample.height for sample in samples),
            max_width=max(sample.width for sample in samples),
            max_pixels=max(sample.height * sample.width for sample in samples),
            labelled=sum(label >= 0 for label in labels),
            classes=max(labels) + 1,
            left_out=len(left_out),
        )

    with ThreadPoolExecutor(min(_THREADS, len(shards)), thread_name_prefix="index") as pool:
        try:
            entries = tuple(pool.map(index, shards))
        except BaseException:
            meter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    root = Root(version=VERSION, content=content_hash(entries), shards=entries)
    with _explained(place):
        place.write(name, root.model_dump_json().encode())
    return root


@contextlib.contextmanager
def _explained(place: Storage) -> Iterator[None]:
    try:
        yield
    except AccessDeniedError as error:
        raise AccessDeniedError(
            f"The index cannot be written to {place.url}.",
            hint="Name a place that can be written: data.index in the spec, --index on the command line.",
        ) from error


class _StoppedError(Exception):
    """Another shard failed, or the user stopped: no use in going on."""


class _Meter:
    """Adds up bytes from several threads, and is where they learn that they should stop."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._stopped = False
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        with self._lock:
            if self._stopped:
                raise _StoppedError
            self._done += amount
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
