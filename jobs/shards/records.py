"""What the index knows of one shard's samples, and its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FORMATS = ("jpeg", "png", "webp", "jpeg-cmyk")
"""What the index calls a picture's format. CMYK is apart: Pillow converts it, simplejpeg rounds otherwise."""

MOST_LABEL = 999_999
"""A larger label is no class number but some other number: a table of counts per class would fill the memory."""

VERSION = 1
_COLUMNS = ("keys", "offsets", "lengths", "crc32c", "heights", "widths", "formats", "labels")


class Sample(NamedTuple):
    """One sample of a shard.

    Attributes:
        key: The members' common name, up to its first dot.
        offset: Where the picture's bytes begin in the shard.
        length: How many there are.
        crc32c: Their CRC32C (Castagnoli).
        height: In pixels.
        width: In pixels.
        format: One of `FORMATS`.
        label: The class, -1 where none is given.
    """

    key: str
    offset: int
    length: int
    crc32c: int
    height: int
    width: int
    format: str
    label: int


class LeftOut(NamedTuple):
    """A sample that cannot be used, and is not counted.

    Attributes:
        key: The members' common name.
        reason: What is wrong with it.
    """

    key: str
    reason: str


@dataclass(frozen=True)
class ShardRecords:
    """The samples of one shard as columns, each of shape [samples], in the order of the shard."""

    names: bytes
    """Keys, separated by zero bytes: a list of a million strings would take ten times the memory."""
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    crc32c: NDArray[np.uint32]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    formats: NDArray[np.uint8]
    labels: NDArray[np.int64]
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, number: int) -> str:
        """The key of sample `number`."""
        return self.names.split(b"\0", number + 1)[number].decode()


def to_columns(samples: Sequence[Sample], left_out: Sequence[LeftOut] = ()) -> bytes:
    """The index file of one shard: JSON that depends on its samples only, not on the shard's name or place."""
    keys, offsets, lengths, crcs, heights, widths, formats, labels = (
        zip(*samples, strict=True) if samples else [()] * len(_COLUMNS)
    )
    rows = (keys, offsets, lengths, crcs, heights, widths, [FORMATS.index(str(name)) for name in formats], labels)
    columns = dict(zip(_COLUMNS, rows, strict=True))
    document = {"version": VERSION, "formats_are": FORMATS, **columns, "left_out": [list(row) for row in left_out]}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()


def from_columns(data: bytes) -> ShardRecords:
    """Read what `to_columns` wrote.

    Raises:
        ValueError: It is something else.
    """
    document = json.loads(data)
    if document.get("version") != VERSION:
        raise ValueError(f"version {document.get('version')} where {VERSION} was expected")
    return ShardRecords(
        names="\0".join(document["keys"]).encode(),
        offsets=np.array(document["offsets"], np.int64),
        lengths=np.array(document["lengths"], np.int64),
        crc32c=np.array(document["crc32c"], np.uint32),
        heights=np.array(document["heights"], np.int32),
        widths=np.array(document["widths"], np.int32),
        formats=np.array(document["formats"], np.uint8),
        labels=np.array(document["labels"], np.int64),
        left_out=tuple(LeftOut(*row) for row in document["left_out"]),
    )


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()
