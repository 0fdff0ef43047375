"""A data set: the samples of its shards, numbered in their natural order, and their bytes."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from jobs.shards.errors import DamagedSampleError
from jobs.shards.index import Root, ShardEntry, content_hash, read_records
from jobs.shards.indexing import Progress, open_index
from jobs.shards.records import ShardRecords
from jobs.shards.sources import Part, find_shards
from jobs.storage import Storage, cached

_RECORDS_KEPT = 64


def open_dataset(
    source: str | Sequence[str],
    *,
    index: str | None = None,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> Dataset:
    """Open a data set; its index is built, and kept, where there is none.

    Args:
        source: A folder or prefix with .tar shards directly in it, a shard, a brace pattern, or a list of these.
        index: Where to keep indexes, where they cannot lie beside the shards.
        progress: Told of the work of indexing.
        rebuild: Index anew even where there is an index.

    Raises:
        SourceError: There are no such shards.
        ShardError: A shard cannot be indexed.
        IndexMismatchError: Shards are not those that were indexed.
        StorageError: The storage cannot be read.
    """
    parts = find_shards(source)
    roots = [open_index(part, index, progress=progress, rebuild=rebuild) for part in parts]
    return Dataset(parts, roots, index)


class Columns(NamedTuple):
    """What the index knows of each sample, all of shape [n]: int32 pixels, int64 bytes, uint8 format, int64 label."""

    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    lengths: NDArray[np.int64]
    formats: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Dataset:
    """Samples of indexed shards. A sample's id is its place in the natural order: shard by shard, as stored.

    Only the roots of the index are held; what is known of a shard's samples is read when it is first asked for. May be
    used from several threads, and pickled.

    Args:
        parts: The shards, folder by folder.
        roots: Each part's index.
        index: As given to `open_dataset`.
    """

    def __init__(self, parts: Sequence[Part], roots: Sequence[Root], index: str | None) -> None:
        self._shards: list[tuple[Storage, Storage, ShardEntry]] = []
        for part, root in zip(parts, roots, strict=True):
            place, _ = part.index_place(index)
            self._shards += [(part.storage, place, entry) for entry in root.shards]
        entries = [entry for _, _, entry in self._shards]
        self.hash = content_hash(entries)
        self.counts: NDArray[np.int64] = np.array([entry.count for entry in entries], dtype=np.int64)
        self.starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self.records_kept = _RECORDS_KEPT
        """Shards whose samples' records stay in memory."""
        self._records: OrderedDict[int, ShardRecords] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        state = {**self.__dict__, "_records": OrderedDict()}
        for name in ("_lock", "labels", "sizes"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @functools.cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, int64[n], -1 where it has none; None where no sample has one."""
        if not any(entry.labelled for _, _, entry in self._shards):
            return None
        return np.concatenate([records.labels for records in self._all_records()])

    @property
    def num_classes(self) -> int:
        """Largest label + 1; 0 without labels."""
        return max(entry.classes for _, _, entry in self._shards)

    @functools.cached_property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width of each sample in pixels, int32[n, 2]."""
        return np.concatenate([np.stack([item.heights, item.widths], axis=1) for item in self._all_records()])

    @property
    def max_size(self) -> tuple[int, int]:
        """Largest height and largest width, which need not be of one picture."""
        entries = [entry for _, _, entry in self._shards]
        return max(entry.max_height for entry in entries), max(entry.max_width for entry in entries)

    @property
    def max_pixels(self) -> int:
        """Most pixels of one picture."""
        return max(entry.max_pixels for _, _, entry in self._shards)

    @property
    def left_out(self) -> int:
        """Samples that cannot be used; they are not counted."""
        return sum(entry.left_out for _, _, entry in self._shards)

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(entry.size for _, _, entry in self._shards)

    def columns(self) -> Columns:
        """What the index knows of all samples at once."""
        every = [(r.heights, r.widths, r.lengths, r.formats, r.labels) for r in self._all_records()]
        return Columns(*(np.concatenate(column) for column in zip(*every, strict=True)))

    def left_out_samples(self) -> Iterator[tuple[str, str]]:
        """Name, as `key` gives it, and reason of each sample that cannot be used."""
        for shard, (_, _, entry) in enumerate(self._shards):
            if entry.left_out:
                for key, reason in self.records(shard).left_out:
                    yield f"{entry.name}/{key}", reason

    @property
    def shard_sizes(self) -> list[int]:
        """Bytes of each shard."""
        return [entry.size for _, _, entry in self._shards]

    def keep_shards(self, folder: Path, limit_bytes: int) -> None:
        """Read shards through a cache from now on.

        Args:
            folder: On a local disk; all processes of a host may share it.
            limit_bytes: Most that is kept there.
        """
        wrapped = {id(storage): cached(storage, folder, limit_bytes) for storage, _, _ in self._shards}
        self._shards = [(wrapped[id(storage)], place, entry) for storage, place, entry in self._shards]

    def key(self, sample_id: int) -> str:
        """What a sample is called, as `shard.tar/000012`."""
        shard, number = self.locate(sample_id)
        return f"{self._shards[shard][2].name}/{self.records(shard).key(number)}"

    def read(self, sample_ids: Iterable[int]) -> list[bytes]:
        """The encoded pictures, checked against their CRC32C.

        Raises:
            DamagedSampleError: A picture's bytes are wrong on the second fetch too.
            StorageError: They cannot be read.
        """
        return [self.fetch(int(sample_id)) for sample_id in sample_ids]

    def fetch(self, sample_id: int, *, again: bool = False) -> bytes:
        """One encoded picture, fetched anew where its checksum is wrong; see `read`.

        Args:
            sample_id: Which.
            again: Its bytes have been wrong before: only the fetch anew is left.
        """
        shard, number = self.locate(sample_id)
        records = self.records(shard)
        start = int(records.offsets[number])
        for fresh in (True,) if again else (False, True):
            if fresh:
                self._shards[shard][0].forget(self._shards[shard][2].name)  # a cache may be what is wrong
            data = bytearray(int(records.lengths[number]))
            self.read_shard(shard, start, memoryview(data))
            if google_crc32c.value(bytes(data)) == int(records.crc32c[number]):
                return bytes(data)
        raise self.damaged(sample_id, "its bytes are not those that were indexed, on a second fetch too")

    def damaged(self, sample_id: int, reason: str) -> DamagedSampleError:
        """The error for a sample that cannot be used."""
        shard, _ = self.locate(sample_id)
        return DamagedSampleError(f"{self._shards[shard][0].url}/{self.key(sample_id)}", reason)

    def locate(self, sample_id: int) -> tuple[int, int]:
        """The shard's number and the sample's number within it."""
        if not 0 <= sample_id < len(self):
            raise IndexError(f"sample {sample_id} of {len(self)}")
        shard = int(np.searchsorted(self.starts, sample_id, side="right")) - 1
        return shard, int(sample_id - self.starts[shard])

    def records(self, shard: int) -> ShardRecords:
        """What the index knows of a shard's samples; the most recently used are kept."""
        with self._lock:
            found = self._records.get(shard)
            if found is not None:
                self._records.move_to_end(shard)
                return found
        # Outside the lock: two threads may both read it, and neither waits for the other's storage.
        _, place, entry = self._shards[shard]
        found = read_records(place, entry)
        with self._lock:
            self._records[shard] = found
            while len(self._records) > self.records_kept:
                self._records.popitem(last=False)
        return found

    def read_shard(self, shard: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a shard, of the version that was indexed."""
        storage, _, entry = self._shards[shard]
        storage.read_into(entry.name, start, buffer, etag=entry.etag)

    def _all_records(self) -> list[ShardRecords]:
        return [self.records(shard) for shard in range(len(self._shards))]
