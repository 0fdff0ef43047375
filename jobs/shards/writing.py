"""Cuts a sequence of pictures into shards, and writes each as a tar file on local disk."""

from __future__ import annotations

import io
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jobs.shards.prepare import Prepared, Unreadable
from jobs.storage import StorageError

A = TypeVar("A")
B = TypeVar("B")

_BLOCK = 512
_SUFFIX_OF = {"jpeg": "jpg", "png": "png", "webp": "webp"}


@dataclass
class Draft:
    """A shard on local disk.

    Attributes:
        path: The tar file.
        start: Place of its first picture in the sequence.
        stop: The place after its last.
        samples: How many were written; the others were left out.
        left_out: Pictures that cannot be read.
        optimised: Pictures that were made baseline.
        resized: Pictures that were made smaller.
    """

    path: Path
    start: int
    stop: int
    samples: int = 0
    left_out: list[Unreadable] = field(default_factory=list)
    optimised: int = 0
    resized: int = 0


def write_shards(
    pictures: Iterable[tuple[Prepared | Unreadable, int]],
    *,
    start: int,
    digits: int,
    path: Callable[[], Path],
    shard_bytes: int,
    shard_samples: int | None,
) -> Iterator[Draft]:
    """Write pictures into shards, in their order; yields each shard once it is whole.

    The same pictures give the same shards, byte for byte: every entry has the same time, owner and rights.

    Args:
        pictures: Each with its label, -1 for none, from place `start` of the sequence on.
        start: Place of the first.
        digits: Length of a key, which is the picture's place.
        path: Where to write the next shard; asked once for each.
        shard_bytes: Most bytes in a shard (a larger picture gets a shard of its own).
        shard_samples: Most pictures in a shard.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    draft = Draft(path(), start, start)
    tar = _open(draft.path)
    size = 2 * _BLOCK
    whole = False
    try:
        for place, (picture, label) in enumerate(pictures, start):
            if isinstance(picture, Unreadable):
                draft.left_out.append(picture)
            else:
                members = [(_SUFFIX_OF[picture.kind], picture.data)]
                if label >= 0:
                    members.append(("cls", str(label).encode()))
                needed = sum(_in_tar(len(data)) for _, data in members)
                if draft.samples and (size + needed > shard_bytes or draft.samples == shard_samples):
                    _close(tar, draft.path)
                    yield draft
                    draft = Draft(path(), place, place)
                    tar = _open(draft.path)
                    size = 2 * _BLOCK
                _add(tar, draft.path, f"{place:0{digits}d}", members)
                size += needed
                draft.samples += 1
                draft.optimised += picture.optimised
                draft.resized += picture.resized
            draft.stop = place + 1
        _close(tar, draft.path)
        whole = True
    finally:
        if not whole and tar.fileobj is not None:
            tar.fileobj.close()  # without the end of an archive: nobody will take it for one
    yield draft


def in_order(pool: Executor, work: Callable[[A], B], items: Iterable[A], *, ahead: int) -> Iterator[B]:
    """`map` in a pool, with no more than `ahead` results waiting to be taken."""
    pending: deque[Future[B]] = deque()
    try:
        for item in items:
            if len(pending) >= ahead:
                yield pending.popleft().result()
            pending.append(pool.submit(work, item))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _open(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)
    except OSError as error:
        raise _no_room(path, error) from error


def _add(tar: tarfile.TarFile, path: Path, key: str, members: list[tuple[str, bytes]]) -> None:
    for suffix, data in members:
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size = len(data)
        entry.mode = 0o444
        try:
            tar.addfile(entry, io.BytesIO(data))
        except OSError as error:
            raise _no_room(path, error) from error


def _close(tar: tarfile.TarFile, path: Path) -> None:
    try:
        tar.close()
    except OSError as error:
        raise _no_room(path, error) from error


def _no_room(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}).",
        hint="A few shards need room there; TMPDIR names another folder for packing to S3.",
    )


def _in_tar(length: int) -> int:
    return _BLOCK + -(-length // _BLOCK) * _BLOCK
