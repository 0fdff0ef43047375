"""Where pictures to pack come from: files in a folder or prefix, or scikit-learn's digits."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.errors import UserError
from jobs.shards.decode import PictureError, decode
from jobs.shards.tar import PICTURE_SUFFIXES
from jobs.storage import open_storage

DIGITS = "digits"
_ENDINGS = tuple(f".{suffix}" for suffix in PICTURE_SUFFIXES)
_CHECKED_AT_ONCE = 256


class PictureSource(Protocol):
    """Pictures by number, in an order that does not change."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each picture, -1 where it has none, int64[n]."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where there are none."""

    def name(self, number: int) -> str:
        """What to call a picture in a message."""

    def read(self, number: int) -> bytes:
        """Its encoded bytes."""


class Unreadable(NamedTuple):
    """A picture that cannot be decoded, and why."""

    number: int
    name: str
    reason: str


def open_pictures(source: str) -> PictureSource:
    """Open `source`: the word `digits`, else a folder or prefix.

    Raises:
        UserError: It does not exist or holds no pictures.
    """
    return Digits() if source == DIGITS else Files(source)


class Files:
    """The pictures below a folder or prefix, by name. A picture's class is the folder directly below that holds it."""

    def __init__(self, url: str) -> None:
        self._storage = open_storage(url)
        if "://" not in self._storage.url and not Path(self._storage.url).is_dir():
            raise UserError(f"There is no folder {self._storage.url}.", hint="Check the path.")
        self._keys = [
            item.key
            for item in self._storage.list()
            if item.key.lower().endswith(_ENDINGS) and not any(part.startswith(".") for part in item.key.split("/"))
        ]
        if not self._keys:
            raise UserError(
                f"There are no pictures ({', '.join(_ENDINGS)}) in {self._storage.url}.",
                hint="Check the path; other formats have to be converted first.",
            )
        folders = [key.partition("/")[0] if "/" in key else None for key in self._keys]
        self.classes = sorted({folder for folder in folders if folder is not None})
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = np.array([-1 if folder is None else numbers[folder] for folder in folders], dtype=np.int64)

    def name(self, number: int) -> str:
        """The file's path below the folder."""
        return self._keys[number]

    def read(self, number: int) -> bytes:
        """The file's bytes."""
        return self._storage.read(self._keys[number])


class Digits:
    """The 1,797 handwritten digits that come with scikit-learn: 8×8 grey, 0..16 scaled to 0..255, as PNG."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # a second to import, which packing files should not pay

        bunch = load_digits()
        self._pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = bunch.target.astype(np.int64)
        self.classes = [str(name) for name in bunch.target_names]

    def name(self, number: int) -> str:
        """Its number."""
        return f"digit {number}"

    def read(self, number: int) -> bytes:
        """The digit as PNG."""
        file = io.BytesIO()
        Image.fromarray(self._pixels[number]).save(file, "PNG")
        return file.getvalue()


def find_unreadable(source: PictureSource, threads: int) -> Iterator[tuple[int, list[Unreadable]]]:
    """Decode every picture; yields, stretch by stretch, how many are done and which of these could not be read."""

    def check(number: int) -> Unreadable | None:
        try:
            decode(source.read(number))
        except PictureError as error:
            return Unreadable(number, source.name(number), error.message)
        return None

    count = len(source.labels)
    with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
        for start in range(0, count, _CHECKED_AT_ONCE):
            stop = min(count, start + _CHECKED_AT_ONCE)
            yield stop, [found for found in pool.map(check, range(start, stop)) if found is not None]
