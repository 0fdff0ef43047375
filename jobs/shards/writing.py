"""Cuts a sequence of pictures into shards, and writes each as a tar file on local disk."""

from __future__ import annotations

import contextlib
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
    tar = _Tar(draft.path)
    size = 2 * _BLOCK
    whole = False
    try:
        for place, (picture, label) in enumerate(pictures, start):
            if isinstance(picture, Unreadable):
                draft.left_out.append(picture)
            else:
                members = {_SUFFIX_OF[picture.kind]: picture.data}
                if label >= 0:
                    members["cls"] = str(label).encode()
                needed = sum(_in_tar(len(data)) for data in members.values())
                if draft.samples and (size + needed > shard_bytes or draft.samples == shard_samples):
                    tar.close()
                    yield draft
                    draft = Draft(path(), place, place)
                    tar = _Tar(draft.path)
                    size = 2 * _BLOCK
                tar.add(f"{place:0{digits}d}", members)
                size += needed
                draft.samples += 1
                draft.optimised += picture.optimised
                draft.resized += picture.resized
            draft.stop = place + 1
        tar.close()
        whole = True
    finally:
        if not whole:
            tar.abandon()
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


class _Tar:
    """A tar shard that is being written, by webdataset's own writer."""

    def __init__(self, path: Path) -> None:
        import webdataset  # brings torch along, two seconds that a mistake in the arguments should not take

        self._path = path
        try:
            self._file = path.open("wb")
            self._writer = webdataset.TarWriter(self._file, encoder=False, mtime=0)
        except OSError as error:
            raise _no_room(path, error) from error

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Add one sample."""
        try:
            self._writer.write({"__key__": key, **members})
        except OSError as error:
            raise _no_room(self._path, error) from error

    def close(self) -> None:
        """Write the end of the archive."""
        try:
            self._writer.close()
            self._file.close()
        except OSError as error:
            raise _no_room(self._path, error) from error

    def abandon(self) -> None:
        """Remove what there is of it."""
        with contextlib.suppress(OSError):  # the disk may be full; the writer would try again when it is collected
            self._writer.close()
        self._file.close()
        self._path.unlink(missing_ok=True)


def _no_room(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}).",
        hint="A few shards need room there; TMPDIR names another folder for packing to S3.",
    )


def _in_tar(length: int) -> int:
    return _BLOCK + -(-length // _BLOCK) * _BLOCK
