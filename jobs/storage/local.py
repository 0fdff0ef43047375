"""A folder on disk as a storage."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat as stat_module
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jobs.storage.activity import ACTIVITY
from jobs.storage.base import (
    TEMPORARY,
    Storage,
    StoredObject,
    check_key,
    check_prefix,
    short,
    write_all,
    write_atomically,
)
from jobs.storage.errors import AccessDeniedError, NotFoundError, ObjectChangedError, StorageError

_FOLDER_TRIES = 100
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


class _Folder(NamedTuple):
    """A folder to be listed: what its keys begin with, and the device and number of each folder it lies in."""

    start: str
    above: frozenset[tuple[int, int]] = frozenset()


class LocalStorage(Storage):
    """Files below one folder, which is made at the first write. An object's tag is its size and modification time."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - `resolve` would follow links

    @property
    def url(self) -> str:
        """The folder's absolute path."""
        return str(self._root)

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[StoredObject]:
        """See `Storage.list`; names that begin with the mark of unfinished files are left out.

        Links to files and folders count as what they lead to; a folder within itself is passed over.
        """
        parent, slash, _ = check_prefix(prefix).rpartition("/")
        found: list[StoredObject] = []
        folders = [_Folder(parent + slash)]
        with self._translated(prefix or "."):
            while folders:
                files, below = _look_into(self._root, folders.pop())
                found += [item for item in files if item.key.startswith(prefix)]
                if recursive:
                    folders += [folder for folder in below if folder.start.startswith(prefix)]
        found.sort(key=lambda item: item.key)
        return iter(found)

    def stat(self, key: str) -> StoredObject:
        """See `Storage.stat`."""
        with self._translated(key):
            result = self._path(key).stat()
        if not stat_module.S_ISREG(result.st_mode):
            raise NotFoundError(f"{self.url}/{key} is not a file.")
        return _describe(key, result)

    def read_into(self, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        """See `Storage.read_into`."""
        where = f"{self.url}/{key}"
        with (
            self._translated(key),
            ACTIVITY.reading(where, start, start + len(buffer), "this host") as read,
            self._path(key).open("rb", buffering=0) as file,
        ):
            now = _describe(key, os.fstat(file.fileno()))
            if etag is not None and now.etag != etag:
                raise ObjectChangedError(f"{where} was changed since it was listed.", hint="Use its new version.")
            done = 0
            while done < len(buffer):
                got = os.preadv(file.fileno(), [buffer[done:]], start + done)
                if got == 0:
                    break
                done += got
                read.done = done
            # A file that is replaced or removed stays whole as long as it is open. One that is written in place does
            # not; its time of change is all there is to tell.
            if _describe(key, os.fstat(file.fileno())) != now:
                raise ObjectChangedError(f"{where} was changed while it was read.", hint="Use its new version.")
            if done < len(buffer):
                raise short(where, start, start + len(buffer))

    def write(self, key: str, data: bytes) -> None:
        """See `Storage.write`: a temporary file in the same folder, synced, then renamed."""
        self._publish(key, lambda descriptor: write_all(descriptor, data))

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage.create`: a hard link to a finished temporary file, which fails where the name is taken."""
        try:
            self._publish(key, lambda descriptor: write_all(descriptor, data), _link)
        except _TakenError:
            return False
        return True

    def upload(self, key: str, path: Path) -> None:
        """See `Storage.upload`."""
        with self._translated(key), path.open("rb") as source:

            def copy(descriptor: int) -> None:
                source.seek(0)
                with os.fdopen(os.dup(descriptor), "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)

            self._publish(key, copy)

    def delete(self, key: str) -> None:
        """See `Storage.delete`; folders that become empty by it go as well, as in S3, where there are none."""
        path = self._path(key)
        with self._translated(key):
            path.unlink(missing_ok=True)
        # Not empty, already gone, or not ours to remove: the object is deleted, and its folder may as well stay.
        with contextlib.suppress(OSError):
            for folder in itertools.takewhile(lambda folder: folder != self._root, path.parents):
                folder.rmdir()

    def _publish(
        self, key: str, fill: Callable[[int], None], publish: Callable[[str, Path], None] = os.replace
    ) -> None:
        path = self._path(key)
        with self._translated(key):
            for tries_left in reversed(range(_FOLDER_TRIES)):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with write_atomically(path, publish) as descriptor:
                        fill(descriptor)
                    return
                except (FileNotFoundError, FileExistsError):
                    # Somebody's `delete` took the folder away while it was still empty (`mkdir` says that it exists
                    # where it was there, and is no folder a moment later).
                    if not tries_left:
                        raise

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"There is no file {self.url}/{key}.", hint="Check the path.") from error
        except PermissionError as error:
            raise AccessDeniedError(
                f"No permission for {error.filename or f'{self.url}/{key}'}.",
                hint="Check the rights of the file and its folder.",
            ) from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise AccessDeniedError(
                    f"{self.url} can only be read.", hint="Choose a folder that can be written."
                ) from error
            raise StorageError(f"{self.url}/{key}: {error.strerror or error}.") from error


class _TakenError(Exception):
    """The name exists already."""


def _link(temporary: str, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _TakenError from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # File systems without hard links: still exclusive, though a crash right here leaves an empty file.
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError as taken:
            raise _TakenError from taken
        Path(temporary).replace(path)


def _look_into(root: Path, folder: _Folder) -> tuple[list[StoredObject], list[_Folder]]:
    """The files and folders directly in a folder; what goes before it is looked at is simply not there."""
    path = root / folder.start
    files: list[StoredObject] = []
    names: list[str] = []
    try:
        about = path.stat()
        with os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if entry.is_dir():
                        names.append(entry.name)
                    elif not entry.name.startswith(TEMPORARY) and stat_module.S_ISREG(entry.stat().st_mode):
                        files.append(_describe(folder.start + entry.name, entry.stat()))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    here = (about.st_dev, about.st_ino)
    if here in folder.above:
        return [], []
    # Only what it lies in is remembered: two links to one folder are two folders.
    above = folder.above | {here}
    return files, [_Folder(f"{folder.start}{name}/", above) for name in names]


def _describe(key: str, result: os.stat_result) -> StoredObject:
    return StoredObject(key, result.st_size, f"{result.st_size}-{result.st_mtime_ns}")
