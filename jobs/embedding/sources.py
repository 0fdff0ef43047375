"""The pictures to embed, by position: files below a folder or prefix, or the samples of shards."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.shards.dataset import Dataset, open_dataset
from jobs.shards.errors import DamagedSampleError
from jobs.shards.pictures import Files
from jobs.shards.sources import SUFFIX
from jobs.shards.stats import read_classes
from jobs.storage import open_storage

_STRETCH = 16 << 20  # bytes of a shard that are read at once
_LOOK_UP = 4096


class Unusable(NamedTuple):
    """In place of a picture's bytes: why there are none."""

    reason: str


class Source(Protocol):
    """Pictures in an order that does not change. Can be sent to other processes and used from several threads."""

    places: list[str]
    """What it was opened from, in absolute terms."""
    identity: str
    """Differs where the pictures or their order do."""
    classes: list[str]
    """Names of the classes; empty where they have none."""
    labelled: bool
    """Whether any picture has a label."""
    left_out: list[tuple[str, str]]
    """Key and reason of each picture that is not even counted."""

    def __len__(self) -> int: ...

    def keys(self, start: int, stop: int) -> list[str]:
        """Names of the pictures [start, stop)."""

    def labels(self, start: int, stop: int) -> NDArray[np.int64]:
        """Class of each of the pictures [start, stop), -1 where it has none."""

    def read(self, start: int, stop: int) -> Iterator[bytes | Unusable]:
        """Encoded bytes of each of the pictures [start, stop), one after the other.

        Raises:
            StorageError: They cannot be had now, which says nothing about the pictures.
        """


def open_source(pictures: Sequence[str]) -> Source:
    """Open a folder or prefix of pictures, or shards.

    A folder with .tar files directly in it, a shard, a brace pattern, or several of these stand for shards.

    Raises:
        UserError: It does not exist or holds no pictures.
        StorageError: It cannot be read.
    """
    first = pictures[0]
    patterned = len(pictures) > 1 or first.endswith(SUFFIX) or "{" in first
    if patterned or any(item.key.endswith(SUFFIX) for item in open_storage(first).list(recursive=False)):
        return ShardSource(pictures)
    return FileSource(first)


def find(source: Source, keys: Sequence[str]) -> list[int]:
    """Positions of the pictures with these keys.

    Raises:
        UserError: The source has no such picture.
    """
    wanted = set(keys)
    found: dict[str, int] = {}
    for start in range(0, len(source), _LOOK_UP):
        for place, key in enumerate(source.keys(start, min(start + _LOOK_UP, len(source))), start):
            if key in wanted:
                found.setdefault(key, place)
        if len(found) == len(wanted):
            break
    for key in keys:
        if key not in found:
            raise UserError(f"{', '.join(source.places)} has no picture {key}.", hint="Are these the pictures?")
    return [found[key] for key in keys]


class FileSource:
    """Files below a folder or prefix, by name; a picture's class is the folder directly below that holds it."""

    def __init__(self, url: str) -> None:
        self._files = Files(url)
        self.places = self._files.places
        self.identity = self._files.fingerprint
        self.classes = self._files.classes
        self.labelled = bool(self.classes)
        self.left_out: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._files.labels)

    def keys(self, start: int, stop: int) -> list[str]:
        """See `Source.keys`."""
        return [self._files.name(number) for number in range(start, stop)]

    def labels(self, start: int, stop: int) -> NDArray[np.int64]:
        """See `Source.labels`."""
        return self._files.labels[start:stop]

    def read(self, start: int, stop: int) -> Iterator[bytes | Unusable]:
        """See `Source.read`."""
        return (self._files.read(number) for number in range(start, stop))


class ShardSource:
    """The samples of indexed shards, in their natural order."""

    def __init__(self, pictures: Sequence[str]) -> None:
        named = list(pictures) if len(pictures) > 1 else pictures[0]
        self._dataset: Dataset = open_dataset(named)
        self.places = [place if "://" in place else os.path.abspath(place) for place in pictures]  # noqa: PTH100 - braces
        self.identity = self._dataset.hash
        self.classes = read_classes(named)
        self.labelled = self._dataset.num_classes > 0
        self.left_out = list(self._dataset.left_out_samples())

    def __len__(self) -> int:
        return len(self._dataset)

    def keys(self, start: int, stop: int) -> list[str]:
        """See `Source.keys`."""
        keys = []
        for shard, first, last in self._pieces(start, stop):
            names = self._dataset.records(shard).names.split(b"\0")[first:last]
            # A key is `shard.tar/name`, and the shard is called the same for all of its samples.
            some = self._dataset.key(int(self._dataset.starts[shard]) + first)
            folder = some[: len(some) - len(names[0].decode())]
            keys += [folder + name.decode() for name in names]
        return keys

    def labels(self, start: int, stop: int) -> NDArray[np.int64]:
        """See `Source.labels`."""
        pieces = [self._dataset.records(shard).labels[first:last] for shard, first, last in self._pieces(start, stop)]
        return np.concatenate([np.empty(0, np.int64), *pieces])

    def read(self, start: int, stop: int) -> Iterator[bytes | Unusable]:
        """See `Source.read`: in stretches of many pictures, each picture checked against its CRC32C."""
        for shard, first, last in self._pieces(start, stop):
            records = self._dataset.records(shard)
            ends = records.offsets + records.lengths
            while first < last:
                low, high, stop_at = int(records.offsets[first]), int(ends[first]), first + 1
                while stop_at < last:
                    wider = min(low, int(records.offsets[stop_at])), max(high, int(ends[stop_at]))
                    if wider[1] - wider[0] > _STRETCH:
                        break
                    (low, high), stop_at = wider, stop_at + 1
                data = memoryview(bytearray(high - low))
                self._dataset.read_shard(shard, low, data)
                for number in range(first, stop_at):
                    picture = bytes(data[int(records.offsets[number]) - low : int(ends[number]) - low])
                    if google_crc32c.value(picture) == int(records.crc32c[number]):
                        yield picture
                    else:
                        yield self._again(int(self._dataset.starts[shard]) + number)
                first = stop_at

    def _again(self, sample: int) -> bytes | Unusable:
        try:
            return self._dataset.fetch(sample, again=True)
        except DamagedSampleError as error:
            return Unusable(error.reason)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Shard, first and last + 1 of its samples, for each shard that the samples [start, stop) lie in."""
        while start < stop:
            shard, first = self._dataset.locate(start)
            count = min(stop - start, int(self._dataset.counts[shard]) - first)
            yield shard, first, first + count
            start += count
