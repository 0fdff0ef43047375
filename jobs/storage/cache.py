"""A storage that keeps whole objects of another one on a local disk."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from jobs.storage.activity import ACTIVITY
from jobs.storage.base import Storage, StoredObject
from jobs.storage.cache_folder import CacheFolder, Part

_log = logging.getLogger(__name__)

_PIECE = 8 << 20
_PAUSE_S = 60.0  # before a disk that failed is written to again


class CachedStorage(Storage):
    """Ranged reads of a known version come from local files; everything else goes to the inner storage.

    The first such read of an object downloads it whole; other threads and processes of the host that want it wait for
    that rather than download it again. The cache never fails a read: where the disk is full, cannot be written or
    breaks, or the object is larger than the limit, bytes come straight from the inner storage, with one warning.

    Args:
        inner: Where objects come from.
        folder: On a local disk; several processes may share it, also with other inner storages.
        limit_bytes: Most that is kept, by least recent use.
    """

    def __init__(self, inner: Storage, folder: Path, limit_bytes: int) -> None:
        self._inner = inner
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._begin()

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("_inner", "_folder", "_limit_bytes")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._files = CacheFolder(self._folder, self._limit_bytes)
        self._passed_over: set[str] = set()
        self._resume_at = 0.0
        self._warned = False

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[StoredObject]:
        """See `Storage.list`."""
        return self._inner.list(prefix, recursive=recursive)

    def stat(self, key: str) -> StoredObject:
        """See `Storage.stat`."""
        return self._inner.stat(key)

    def read_into(self, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        """See `Storage.read_into`. Without an `etag` nothing tells whether what is kept is still right."""
        if etag is None or not buffer or not self._read_kept(key, start, buffer, etag):
            self._inner.read_into(key, start, buffer, etag=etag)

    def write(self, key: str, data: bytes) -> None:
        """See `Storage.write`."""
        self._inner.write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage.create`."""
        return self._inner.create(key, data)

    def upload(self, key: str, path: Path) -> None:
        """See `Storage.upload`."""
        self._inner.upload(key, path)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        self._inner.delete(key)

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self._inner.exists(key)

    def read(self, key: str) -> bytes:
        """See `Storage.read`: small objects read once, which would only push others out."""
        return self._inner.read(key)

    def download(self, key: str, path: Path) -> None:
        """See `Storage.download`."""
        self._inner.download(key, path)

    def forget(self, key: str) -> None:
        """See `Storage.forget`: the next read downloads the object again."""
        self._renew_after_fork()
        try:
            self._files.forget(self._name(key))
        except OSError as error:
            self._passed_over.add(self._name(key))
            self._warn(f"cannot remove a damaged copy from the cache {self._folder} ({error}); it is not used")
        self._inner.forget(key)

    def _read_kept(self, key: str, start: int, buffer: memoryview, etag: str) -> bool:
        self._renew_after_fork()
        if self._name(key) in self._passed_over:
            return False
        name = f"{self._name(key)}-{_digest(etag)}"
        where = f"{self.url}/{key}"
        try:
            with ACTIVITY.reading(where, start, start + len(buffer), f"the cache {self._folder}") as read:
                if not self._files.read(name, start, buffer):
                    self._keep(name, key, etag)
                    if not self._files.read(name, start, buffer):
                        return False
                read.done = len(buffer)
                return True
        except OSError as error:
            self._resume_at = time.monotonic() + _PAUSE_S
            self._warn(f"the cache {self._folder} fails ({error}); reading straight from {self.url}")
            return False

    def _keep(self, name: str, key: str, etag: str) -> None:
        if time.monotonic() < self._resume_at:
            return
        with self._files.claim(name) as part:
            if part is not None:
                self._download(part, key, etag)

    def _download(self, part: Part, key: str, etag: str) -> None:
        found = self._inner.stat(key)
        size = found.size
        if found.etag != etag:
            return  # the read itself will say so; nothing has to make room for that
        if size > self._limit_bytes:
            self._passed_over.add(self._name(key))
            self._warn(f"{self.url}/{key} has {size} bytes, more than the cache may hold ({self._limit_bytes})")
        elif part.reserve(size):
            piece = memoryview(bytearray(min(_PIECE, size)))
            for start in range(0, size, _PIECE):
                data = piece[: min(_PIECE, size - start)]
                self._inner.read_into(key, start, data, etag=etag)
                part.append(data)
            part.publish()

    def _name(self, key: str) -> str:
        return _digest(f"{self.url}\0{key}")

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(text)

    def _renew_after_fork(self) -> None:
        # It may have come while another thread held one of the locks in here.
        if self._process != os.getpid():
            self._begin()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
