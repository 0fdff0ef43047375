"""What shards hold, from their index alone: counts, sizes, formats, labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.shards.dataset import Dataset
from jobs.shards.records import FORMATS
from jobs.shards.sources import CLASSES, find_shards
from jobs.storage import NotFoundError, StorageError


@dataclass(frozen=True)
class Spread:
    """Least, middle and most of something over all samples."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class Stats:
    """What shards hold.

    Attributes:
        hash: The data set's, over its content.
        shards: How many.
        samples: How many.
        left_out: Samples that cannot be used, which nothing below counts.
        shard_bytes: Bytes of all shards.
        picture_bytes: Bytes of all encoded pictures.
        pixels: Of all pictures together.
        height: In pixels.
        width: In pixels.
        bytes: Of one encoded picture.
        formats: Samples by format, most first.
        labels: Samples by label, by number; those without one are not in it.
        unlabelled: Samples without a label.
        classes: Names of the labels, by number, where `classes.json` beside the shards names them.
    """

    hash: str
    shards: int
    samples: int
    left_out: int
    shard_bytes: int
    picture_bytes: int
    pixels: int
    height: Spread
    width: Spread
    bytes: Spread
    formats: dict[str, int]
    labels: dict[int, int]
    unlabelled: int
    classes: list[str]


def describe(dataset: Dataset, source: str | Sequence[str]) -> Stats:
    """Count what a data set holds.

    Args:
        dataset: The data set.
        source: Where it was opened from, to look for the names of its classes.

    Raises:
        StorageError: The index cannot be read.
    """
    heights, widths, lengths, formats, labels = dataset.columns()
    kinds = np.bincount(formats, minlength=len(FORMATS))
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    return Stats(
        hash=dataset.hash,
        shards=len(dataset.counts),
        samples=len(dataset),
        left_out=dataset.left_out,
        shard_bytes=dataset.size,
        picture_bytes=int(lengths.sum()),
        pixels=int((heights.astype(np.int64) * widths).sum()),
        height=_spread(heights),
        width=_spread(widths),
        bytes=_spread(lengths),
        formats={FORMATS[number]: int(kinds[number]) for number in np.argsort(-kinds, kind="stable") if kinds[number]},
        labels=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        unlabelled=int((labels < 0).sum()),
        classes=read_classes(source),
    )


def read_classes(source: str | Sequence[str]) -> list[str]:
    """Names of the classes from `classes.json` beside the shards; empty where there are none, or they differ.

    Raises:
        StorageError: The storage cannot be asked, or the file holds something else than a list of names.
    """
    found: list[list[str]] = []
    for part in find_shards(source):
        try:
            names = json.loads(part.storage.read(CLASSES))
        except NotFoundError:
            return []
        except ValueError as error:
            raise StorageError(f"{part.storage.url}/{CLASSES} is damaged: no JSON.", hint="Pack again.") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise StorageError(f"{part.storage.url}/{CLASSES} is no list of names.", hint="Mend or remove it.")
        found.append(names)
    return found[0] if all(names == found[0] for names in found) else []


def _spread(values: NDArray[np.signedinteger]) -> Spread:
    return Spread(int(values.min()), float(np.median(values)), int(values.max()))
