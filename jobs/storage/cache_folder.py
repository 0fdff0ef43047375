"""The files of a cache: whole objects with a checksum, shared by every process of a host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from jobs.storage.base import write_all

_WHOLE, _PART, _LOCK = ".whole", ".part", "lock"
_TRAILER = struct.Struct("<8sQI")  # magic, size, CRC32C of the bytes before it
_MAGIC = b"recocch1"
_STEP = 1 << 20
_WAIT_S = 600.0  # for somebody else's download; a process that was stopped must not stop the others
_POLL_S = 0.02


class CacheFolder:
    """Whole objects under made-up names, at most `limit_bytes` of them.

    A file appears under its name only when it is whole, by a rename, and ends with a checksum that each process
    compares once before it trusts the file. Downloads hold a lock on their unfinished file, which the kernel drops when
    they die: that is how leftovers are told from work under way. Removing a file that somebody reads is harmless, since
    it lives on until it is closed. Its order of use is the files' time of access.

    Every method may raise `OSError`.

    Args:
        folder: Made at the first download.
        limit_bytes: Unfinished files count.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.path = folder
        self.limit_bytes = limit_bytes
        self._trusted: dict[str, tuple[int, int, int]] = {}
        self._checking: dict[str, threading.Lock] = {}

    def read(self, name: str, start: int, buffer: memoryview) -> bool:
        """Fill `buffer` from a file; False, with `buffer` undefined, where there is none or it has no such bytes.

        A file that turns out cut or damaged is removed.
        """
        try:
            descriptor = os.open(self._file(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(descriptor)
            if not self._is_trusted(name, descriptor, found):
                self._remove(name, found.st_ino)
                return False
            if start + len(buffer) > found.st_size - _TRAILER.size:
                return False
            # A folder that can only be read serves all the same; nobody evicts from it.
            with contextlib.suppress(OSError):
                os.utime(descriptor, ns=(time.time_ns(), found.st_mtime_ns))
            done = 0
            while done < len(buffer):
                got = os.preadv(descriptor, [buffer[done:]], start + done)
                if got == 0:  # cut since it was checked
                    self._remove(name, found.st_ino)
                    return False
                done += got
            return True
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[Part | None]:
        """An unfinished file to fill, which is gone at the end unless it was published.

        Gives None where somebody else filled it meanwhile, or tried to; whoever asked has waited for that.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self._file(name, _PART)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _locked(descriptor):
                deadline = time.monotonic() + _WAIT_S
                while not _locked(descriptor) and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                yield None
            elif _inode(path) != os.fstat(descriptor).st_ino:  # published or cleared away before it was locked
                yield None
            else:
                os.ftruncate(descriptor, 0)  # it may be what a killed download left
                try:
                    yield None if self._file(name).exists() else Part(self, name, descriptor)
                finally:
                    # Once this has its final name, an unfinished file of that name is somebody else's.
                    if _inode(path) == os.fstat(descriptor).st_ino:
                        path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def forget(self, beginning: str) -> None:
        """Remove every file whose name begins so."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self.path.iterdir()):
                if path.name.startswith(beginning) and path.suffix == _WHOLE:
                    path.unlink(missing_ok=True)

    def reserve(self, descriptor: int, size: int) -> bool:
        """Take disk space for an unfinished file, evicting what was used longest ago; False where there is no room."""
        with self._exclusive():
            taken, whole = 0, []
            for path in self.path.iterdir():
                if path.suffix == _PART and self._clear_leftover(path):
                    continue
                if path.suffix in (_PART, _WHOLE):
                    with contextlib.suppress(FileNotFoundError):
                        found = path.stat()
                        taken += found.st_size
                        if path.suffix == _WHOLE:
                            whole.append((found.st_atime_ns, path, found.st_size))
            size += _TRAILER.size
            if taken - sum(bytes_ for _, _, bytes_ in whole) + size > self.limit_bytes:
                return False
            for _, path, bytes_ in sorted(whole):
                if taken + size <= self.limit_bytes:
                    break
                path.unlink(missing_ok=True)
                taken -= bytes_
            # A disk that is full says so here and not in the middle, and others see at once how large this will be.
            os.posix_fallocate(descriptor, 0, size)
            return True

    def publish(self, name: str, descriptor: int, size: int, crc32c: int) -> None:
        """Give a filled file its name. Not synced: what a power cut takes of it, the checksum shows."""
        os.lseek(descriptor, size, os.SEEK_SET)
        write_all(descriptor, _TRAILER.pack(_MAGIC, size, crc32c))
        with self._exclusive():  # or whoever counts just now may see it under neither name
            self._file(name, _PART).rename(self._file(name))
        self._trusted[name] = _stamp(os.fstat(descriptor))

    def _is_trusted(self, name: str, descriptor: int, found: os.stat_result) -> bool:
        if self._trusted.get(name) == _stamp(found):
            return True
        with self._checking.setdefault(name, threading.Lock()):
            if self._trusted.get(name) == _stamp(found):  # another thread was first
                return True
            if not _is_whole(descriptor, found.st_size):
                return False
            self._trusted[name] = _stamp(found)
            return True

    def _remove(self, name: str, inode: int) -> None:
        # Somebody may have put a good one in its place.
        if _inode(self._file(name)) == inode:
            self._file(name).unlink(missing_ok=True)

    def _clear_leftover(self, path: Path) -> bool:
        """Remove an unfinished file that nobody fills any more; whether it was one."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            if not _locked(descriptor):
                return False
            if _inode(path) == os.fstat(descriptor).st_ino:
                path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for milliseconds
            yield
        finally:
            os.close(descriptor)

    def _file(self, name: str, suffix: str = _WHOLE) -> Path:
        return self.path / f"{name}{suffix}"


class Part:
    """An unfinished file of a cache, claimed by whoever has this."""

    def __init__(self, folder: CacheFolder, name: str, descriptor: int) -> None:
        self._folder = folder
        self._name = name
        self._descriptor = descriptor
        self._size = 0
        self._crc32c = 0

    def reserve(self, size: int) -> bool:
        """Take disk space for that many bytes; False where the limit leaves none."""
        return self._folder.reserve(self._descriptor, size)

    def append(self, data: memoryview) -> None:
        """Add bytes."""
        write_all(self._descriptor, data)
        self._size += len(data)
        for start in range(0, len(data), _STEP):
            # The package takes nothing but read-only bytes: a copy, so a small one.
            self._crc32c = google_crc32c.extend(self._crc32c, bytes(data[start : start + _STEP]))

    def publish(self) -> None:
        """What was appended is the object."""
        self._folder.publish(self._name, self._descriptor, self._size, self._crc32c)


def _is_whole(descriptor: int, size: int) -> bool:
    """Whether the file is as long as its trailer says and has its checksum."""
    content = size - _TRAILER.size
    if content < 0:
        return False
    magic, stated, expected = _TRAILER.unpack(os.pread(descriptor, _TRAILER.size, content).ljust(_TRAILER.size, b"\0"))
    if magic != _MAGIC or stated != content:
        return False
    crc32c = 0
    for start in range(0, content, _STEP):
        crc32c = google_crc32c.extend(crc32c, os.pread(descriptor, min(_STEP, content - start), start))
    return bool(crc32c == expected)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size
