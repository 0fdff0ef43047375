"""The index of a folder's shards: its root, and a file for each shard.

A file per shard holds its samples and depends on nothing but them, so its SHA-256 is the shard's content hash, the same
wherever the shard lies. The root names the shards with size, tag and those hashes; it is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pydantic

from jobs.shards.errors import IndexMismatchError
from jobs.shards.records import MOST_LABEL, VERSION, ShardRecords, from_columns, sha256, to_columns
from jobs.shards.tar import Scanned
from jobs.storage import NotFoundError, Storage, StoredObject

REBUILD = "If that is meant, run `reco data index --rebuild` on it."


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


def load_root(place: Storage, name: str) -> Root:
    """Load a root of the index at `place`.

    Raises:
        NotFoundError: There is none.
        IndexMismatchError: It is of another version, or damaged.
        StorageError: It cannot be read.
    """
    data, where = place.read(name), f"{place.url}/{name}"
    try:
        version = json.loads(data)["version"]
        if version != VERSION:
            raise IndexMismatchError(f"{where} has version {version}; this program reads {VERSION}.", hint=REBUILD)
        root = Root.model_validate_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise IndexMismatchError(f"{where} is damaged: it is no index.", hint=REBUILD) from error
    for entry in root.shards:
        if entry.classes > MOST_LABEL + 1:  # an earlier program took any number
            raise IndexMismatchError(f"{where} has the label {entry.classes - 1} in {entry.name}.", hint=REBUILD)
    if content_hash(root.shards) != root.content:
        raise IndexMismatchError(f"{where} is damaged: its hashes do not fit together.", hint=REBUILD)
    return root


def read_records(place: Storage, entry: ShardEntry) -> ShardRecords:
    """Load one shard's file of the index at `place`.

    Raises:
        IndexMismatchError: It is not the one the root promises.
    """
    key = file_of(entry.name)
    try:
        data = place.read_range(key, 0, entry.bytes)
    except NotFoundError as error:
        raise IndexMismatchError(f"The index {place.url} lacks {key}.", hint=REBUILD) from error
    if sha256(data) != entry.sha256:
        raise IndexMismatchError(f"{place.url}/{key} is not what its root promises.", hint=REBUILD)
    return from_columns(data)


def describe(shard: StoredObject, scanned: Scanned, place: Storage) -> ShardEntry:
    """Write one shard's file of the index at `place`.

    Returns:
        What the root says of the shard.

    Raises:
        StorageError: It cannot be written.
    """
    samples, left_out = scanned
    data = to_columns(samples, left_out)
    place.write(file_of(shard.key), data)
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


def file_of(shard: str) -> str:
    """The key of a shard's file of the index."""
    return f"{shard}.json"


def make_root(entries: Sequence[ShardEntry]) -> Root:
    """The root of an index of these shards."""
    return Root(version=VERSION, content=content_hash(entries), shards=tuple(entries))
