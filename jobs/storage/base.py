"""The one interface to stored objects, whether they lie in S3 or in a folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.storage.errors import AddressError, NotFoundError, ObjectChangedError, StorageError

_PART = 16 << 20
_READ_ATTEMPTS = 3


@dataclass(frozen=True)
class StoredObject:
    """One object: its key below the root, its size in bytes, and the tag that changes when its content does."""

    key: str
    size: int
    etag: str


class Storage(ABC):
    """Objects under one root.

    Keys are relative to the root, '/'-separated, and never climb out of it. Every method may be called from several
    threads at once. An instance can be pickled and used after a fork: connections are made anew in each process.
    Every failure is a `StorageError`.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the root is; `open_storage(storage.url)` opens the same root."""

    @abstractmethod
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[StoredObject]:
        """Objects whose key starts with `prefix`, sorted by key; none where the root does not exist yet.

        Args:
            prefix: Any beginning of a key; it need not end at a '/'.
            recursive: False leaves out keys that have a '/' after the prefix.

        Raises:
            BucketError: There is no such bucket.
        """

    @abstractmethod
    def stat(self, key: str) -> StoredObject:
        """Size and tag of one object.

        Raises:
            NotFoundError: There is none.
        """

    @abstractmethod
    def read_into(self, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        """Fill `buffer` with the bytes of `key` from offset `start`: all of them, or a typed error.

        Transient faults, also in mid-body, are retried from the first missing byte.

        Args:
            key: The object.
            start: Offset of the first byte.
            buffer: Writable bytes; its length says how many to read. Its content is undefined after an error.
            etag: Refuse any other version of the object.

        Raises:
            NotFoundError: There is no such object.
            ObjectChangedError: The object's tag is not `etag`, or changed between two pieces.
            UnreachableError: The storage stayed away for longer than the budget for retries.
            StorageError: The object ends before `start + len(buffer)`.
        """

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write an object whole, replacing what is there: a reader sees the old bytes or the new, never a mixture."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write an object only where there is none; of many callers at once exactly one gets True.

        Returns:
            False where the object exists already, which is then untouched. An S3 endpoint that ignores
            `If-None-Match` overwrites and answers True to everyone; nothing in its answer gives that away.
            Give `data` something of the writer's own: after a lost answer the content decides whose it is.
        """

    @abstractmethod
    def upload(self, key: str, path: Path) -> None:
        """Write a local file as an object, as atomically as `write`."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; no error where it is already gone."""

    def forget(self, key: str) -> None:  # noqa: B027 - a storage without a cache does nothing, rightly
        """The bytes that were read are wrong: drop any copy that is kept of the object, to read it from its origin.

        Only a cache has something to forget.
        """

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.stat(key)
        except NotFoundError:
            return False
        return True

    def read(self, key: str) -> bytes:
        """A whole object, all of one version."""
        for attempt in range(_READ_ATTEMPTS):
            found = self.stat(key)
            try:
                return self.read_range(key, 0, found.size, etag=found.etag)
            except ObjectChangedError:
                # A small object may rightly be rewritten between the question for its size and the read.
                if attempt == _READ_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def read_range(self, key: str, start: int, stop: int, *, etag: str | None = None) -> bytes:
        """Exactly the bytes [start, stop) of an object; see `read_into` for what it raises."""
        if not 0 <= start <= stop:
            raise ValueError(f"no such range: {start}..{stop}")
        data = bytearray(stop - start)
        self.read_into(key, start, memoryview(data), etag=etag)
        return bytes(data)

    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file, which appears only once it is whole."""
        found = self.stat(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as descriptor:
            data = memoryview(bytearray(min(_PART, found.size)))
            for start in range(0, found.size, _PART):
                part = data[: min(_PART, found.size - start)]
                self.read_into(key, start, part, etag=found.etag)
                write_all(descriptor, part)


def check_key(key: str) -> str:
    """Return `key` where it is one a storage can hold.

    Raises:
        AddressError: It is empty, absolute, or has an empty, '.' or '..' part.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise AddressError(
            f"{key!r} cannot be a key.", hint="Keys are relative paths without '.', '..' or empty parts."
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` where it can begin a key; unlike a key it may be empty or end with '/'.

    Raises:
        AddressError: It climbs out of the root or is absolute.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write every byte of `data`: `os.write` may stop early."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def write_atomically(path: Path, publish: Callable[[str, Path], None] = os.replace) -> Iterator[int]:
    """Give a descriptor to write to; at the end the bytes are synced to disk and `publish`ed as `path`.

    Nothing is left behind where the body fails. `publish(temporary, path)` renames by default.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        try:
            yield descriptor
            os.fchmod(descriptor, 0o666 & ~_UMASK)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        publish(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def short(where: str, start: int, stop: int) -> StorageError:
    """The error for an object that ends too early."""
    return StorageError(
        f"{where} ends before byte {stop} (bytes {start}..{stop} were asked for).",
        hint="The object was cut short or replaced; look at its size.",
    )


TEMPORARY = ".reco-tmp-"


def _read_umask() -> int:
    # There is no way to ask without setting it; done once, at import, before threads exist.
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


_UMASK = _read_umask()
