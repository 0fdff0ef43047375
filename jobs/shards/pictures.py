"""Where pictures to pack come from: files in a folder or prefix, a table, shards, or scikit-learn's digits."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.errors import UserError
from jobs.shards import lists
from jobs.shards.dataset import open_dataset
from jobs.shards.indexing import Progress
from jobs.shards.sources import SUFFIX, find_shards
from jobs.shards.stats import read_classes
from jobs.shards.tar import PICTURE_SUFFIXES
from jobs.storage import open_storage

DIGITS = "digits"
_ENDINGS = tuple(f".{suffix}" for suffix in PICTURE_SUFFIXES)


class PictureSource(Protocol):
    """Pictures by number, in an order that does not change."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each picture, -1 where it has none, int64[n]."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where there are none."""

    @property
    def places(self) -> list[str]:
        """Where it reads: folders or prefixes that must not be written to meanwhile."""

    @property
    def fingerprint(self) -> str:
        """Differs where the pictures, their order or labels do."""

    def name(self, number: int) -> str:
        """What to call a picture in a message."""

    def read(self, number: int) -> bytes:
        """Its encoded bytes.

        Raises:
            PictureError: There are none to be had.
            DamagedSampleError: They are not those that were indexed.
            StorageError: They cannot be read.
        """


def open_pictures(source: str, *, index: str | None = None, progress: Progress | None = None) -> PictureSource:
    """Open `source`: the word `digits`, a CSV or parquet file, shards, or a folder or prefix of pictures.

    Args:
        source: A folder with .tar files directly in it, a shard or a brace pattern stands for shards.
        index: Where the index of shards is kept, where it does not lie beside them.
        progress: Told of the work of indexing shards that have no index.

    Raises:
        UserError: It does not exist or holds no pictures.
        StorageError: It cannot be read.
    """
    if source == DIGITS:
        return Digits()
    if source.lower().endswith(lists.SUFFIXES):
        return lists.Listed(source)
    patterned = source.endswith(SUFFIX) or "{" in source
    if patterned or any(item.key.endswith(SUFFIX) for item in open_storage(source).list(recursive=False)):
        return Stored(source, index, progress)
    return Files(source)


class Files:
    """The pictures below a folder or prefix, by name. A picture's class is the folder directly below that holds it."""

    def __init__(self, url: str) -> None:
        self._storage = open_storage(url)
        if "://" not in self._storage.url and not Path(self._storage.url).is_dir():
            raise UserError(f"There is no folder {self._storage.url}.", hint="Check the path.")
        found = [
            item
            for item in self._storage.list()
            if item.key.lower().endswith(_ENDINGS) and not any(part.startswith(".") for part in item.key.split("/"))
        ]
        self._keys = [item.key for item in found]
        described = "\n".join(f"{item.key} {item.size} {item.etag}" for item in found)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()
        if not self._keys:
            raise UserError(
                f"There are no pictures ({', '.join(_ENDINGS)}) in {self._storage.url}.",
                hint="Check the path; other formats have to be converted first.",
            )
        # In S3 a folder's name may be empty, as in `photos//1.jpg`: that names no class.
        folders = [key.partition("/")[0] or None if "/" in key else None for key in self._keys]
        self.classes = sorted({folder for folder in folders if folder is not None})
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.places = [self._storage.url]
        self.labels = np.array([-1 if folder is None else numbers[folder] for folder in folders], dtype=np.int64)

    def name(self, number: int) -> str:
        """The file's path below the folder."""
        return self._keys[number]

    def read(self, number: int) -> bytes:
        """The file's bytes."""
        return self._storage.read(self._keys[number])


class Stored:
    """The samples of shards, by their index. Captions and other members besides picture and label are not taken along.

    Args:
        source: As for `open_dataset`.
        index: Where the index is kept, None for beside the shards.
        progress: Told of the work of indexing.
    """

    def __init__(self, source: str, index: str | None, progress: Progress | None) -> None:
        self._dataset = open_dataset(source, index=index, progress=progress)
        # In a shuffled order every read is of another shard: none may be forgotten.
        self._dataset.records_kept = len(self._dataset.counts)
        self.labels = self._dataset.columns().labels
        self.classes = read_classes(source)
        self.places = [part.storage.url for part in find_shards(source)]
        self.fingerprint = self._dataset.hash

    def name(self, number: int) -> str:
        """Shard and key."""
        return self._dataset.key(number)

    def read(self, number: int) -> bytes:
        """The sample's picture, checked against its CRC32C."""
        return self._dataset.fetch(number)


class Digits:
    """The 1,797 handwritten digits that come with scikit-learn: 8×8 grey, 0..16 scaled to 0..255, as PNG."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # a second to import, which packing files should not pay

        bunch = load_digits()
        self._pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        self.labels: NDArray[np.int64] = bunch.target.astype(np.int64)
        self.classes = [str(name) for name in bunch.target_names]
        self.places: list[str] = []
        self.fingerprint = hashlib.sha256(self._pixels.tobytes()).hexdigest()

    def name(self, number: int) -> str:
        """Its number."""
        return f"digit {number}"

    def read(self, number: int) -> bytes:
        """The digit as PNG."""
        file = io.BytesIO()
        Image.fromarray(self._pixels[number]).save(file, "PNG")
        return file.getvalue()
