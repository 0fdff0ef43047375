"""Builds the index of a folder's shards, once, and checks it whenever it is opened."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from jobs.shards.errors import IndexMismatchError, ShardError
from jobs.shards.index import REBUILD, Root, ShardEntry, describe, file_of, load_root, make_root
from jobs.shards.journal import Journal
from jobs.shards.sources import Part
from jobs.shards.tar import scan_shard
from jobs.storage import AccessDeniedError, NotFoundError, Storage, StorageError, StoredObject, join_url, open_storage

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; from any thread, one call at a time."""

PACKING = "packing.json"
"""In the index folder of shards that are still being packed; see `pack`."""

_MOST_THREADS = 16  # each holds two stretches of 8 MiB; storage far away needs many, the interpreter serves few


def open_index(part: Part, index: str | None, *, progress: Progress | None = None, rebuild: bool = False) -> Root:
    """Load a part's index and check it against the listing; build it where there is none.

    Building that was stopped goes on: shards that were done, and have the same size and tag, are not read again.

    Args:
        part: The shards.
        index: Where indexes are kept, None for beside the shards.
        progress: Told of the work of building.
        rebuild: Build it even where there is one.

    Raises:
        IndexMismatchError: Shards were changed, added or removed since, or the index is damaged.
        ShardError: A shard cannot be indexed, or the shards are still being packed.
        StorageError: Something cannot be read or written.
    """
    place, name = part.index_place(index)
    if not rebuild:
        with contextlib.suppress(NotFoundError):
            root = load_root(place, name)
            for difference in differences(part, root):
                raise IndexMismatchError(difference, hint=REBUILD)
            return root
    if open_storage(join_url(part.storage.url, "index")).exists(PACKING):
        raise ShardError(
            f"The shards in {part.storage.url} are not whole: packing them goes on, or was stopped.",
            hint="Give the same `reco data pack` command again: it goes on where it was.",
        )
    return _build(part, place, name, progress)


def differences(part: Part, root: Root) -> Iterator[str]:
    """How the shards that are there differ from those that were indexed, in sentences."""
    listed = {shard.key: shard for shard in part.shards}
    known = {entry.name: entry for entry in root.shards}
    url = part.storage.url
    for what, names in (("added", listed.keys() - known.keys()), ("removed", known.keys() - listed.keys())):
        if names:
            first = f"{len(names)} {'shard was' if len(names) == 1 else 'shards were'} {what}, {min(names)} first"
            yield f"{url} was indexed before {first}."
    for name, shard in listed.items():
        if name in known and (shard.size, shard.etag) != (known[name].size, known[name].etag):
            yield f"{url}/{name} was changed since it was indexed."


def _build(part: Part, place: Storage, name: str, progress: Progress | None) -> Root:
    shards = part.shards
    unfinished = f"{name.removesuffix('.json')}.unfinished.json"
    entries = _load_unfinished(part, place, unfinished)
    journal = Journal(place, unfinished, lambda: make_root(list(entries.values())).model_dump_json().encode())
    meter = Meter(sum(shard.size for shard in shards), progress)
    meter.advance(sum(entry.size for entry in entries.values()))

    def index(shard: StoredObject) -> ShardEntry:
        if shard.key not in entries:
            scanned = scan_shard(part.storage, shard, meter.advance)
            with _explained(place):
                entries[shard.key] = describe(shard, scanned, place)
                journal.note()
        return entries[shard.key]

    threads = min(_MOST_THREADS, 4 * (os.cpu_count() or 1), len(shards))
    with ThreadPoolExecutor(threads, thread_name_prefix="index") as pool:
        try:
            root = make_root(list(pool.map(index, shards)))
        except BaseException:
            meter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            with contextlib.suppress(StorageError):  # what stopped the work is what has to be said
                if entries:
                    journal.keep()
            raise
    with _explained(place):
        place.write(name, root.model_dump_json().encode())
        journal.remove()
    return root


def _load_unfinished(part: Part, place: Storage, name: str) -> dict[str, ShardEntry]:
    """The shards that need not be read again, since an index of them was begun and stopped."""
    try:
        root = load_root(place, name)
    except (NotFoundError, IndexMismatchError):
        return {}  # never begun, or begun by another version: it costs time, and is no fault
    listed = {shard.key: (shard.size, shard.etag) for shard in part.shards}
    files = {item.key: item.size for item in place.list(recursive=False)}
    return {
        entry.name: entry
        for entry in root.shards
        if listed.get(entry.name) == (entry.size, entry.etag) and files.get(file_of(entry.name)) == entry.bytes
    }


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


class Meter:
    """Adds up bytes from several threads, and is where they learn that they should stop.

    Args:
        total: Bytes in all.
        progress: Told of each step.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._stopped = False
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        """Add bytes that are done."""
        with self._lock:
            if self._stopped:
                raise _StoppedError
            self._done += amount
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        """Make every further `advance` fail, which ends the threads that call it."""
        with self._lock:
            self._stopped = True
