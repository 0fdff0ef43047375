"""Files of embeddings, read block by block: parquet or npy, on disk or copied from S3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.embedding.encoder import Floats
from jobs.embedding.errors import EmbeddingFileError
from jobs.embedding.parts import matrix
from jobs.embedding.writing import ABOUT, ABOUT_SUFFIX, KEYS_SUFFIX, SUFFIXES, About
from jobs.storage import open_storage, split_url

_BLOCK = 16384  # rows; 128 MB of vectors of 2,048 numbers


class EmbeddingFile:
    """Keys, labels and vectors of a file that `reco embed` wrote, or of any with the columns key and embedding.

    Args:
        path: A local file.

    Raises:
        EmbeddingFileError: It is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.suffix == ".npy":
                self._matrix = np.load(path, mmap_mode="r", allow_pickle=False)
                self._open_matrix()
            else:
                self._parquet = pq.ParquetFile(path)
                self._open_parquet()
        except FileNotFoundError as error:
            raise EmbeddingFileError(f"There is no file {error.filename or path}.", hint="Check the path.") from error
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise EmbeddingFileError(
                f"{path} is no file of embeddings ({error}).", hint="`reco embed` writes such files."
            ) from error
        if not self.count:
            raise EmbeddingFileError(f"{path} holds no embeddings.", hint="Name another file.")

    def __len__(self) -> int:
        return self.count

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Number of the first row, and float32 [n, c], of each block of consecutive rows."""
        if self.path.suffix == ".npy":
            for start in range(0, self.count, _BLOCK):
                yield start, np.asarray(self._matrix[start : start + _BLOCK], np.float32)
            return
        start = 0
        for batch in self._parquet.iter_batches(_BLOCK, columns=["embedding"]):
            yield start, matrix(batch.column(0))
            start += len(batch)

    def features(self, rows: Sequence[int]) -> Floats:
        """Vectors of some rows, float32 [n, c]."""
        wanted = np.asarray(rows, np.int64)
        found = np.empty((len(wanted), self.width), np.float32)
        for start, block in self.blocks():
            here = (wanted >= start) & (wanted < start + len(block))
            found[here] = block[wanted[here] - start]
        return found

    def key(self, row: int) -> str:
        """Name of a picture."""
        return str(self._keys[row].as_py())

    def row(self, key: str) -> int:
        """The first row of that key.

        Raises:
            EmbeddingFileError: There is none.
        """
        found = self._keys.index(key).as_py()
        if found < 0:
            raise EmbeddingFileError(
                f"{self.path} has no picture {key}.", hint=f"Keys there look like {self.key(0)}; they name pictures."
            )
        return int(found)

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [n], -1 for none; None where there are none."""
        if self.path.suffix == ".npy" or "label" not in self._parquet.schema_arrow.names:
            return None
        column = self._parquet.read(columns=["label"])["label"]
        return column.to_numpy().astype(np.int64)  # type: ignore[no-any-return]

    def label(self, row: int) -> str | None:
        """The class of a picture: its name where names are known, else its number; None where there is none."""
        if self.labels is None or self.labels[row] < 0:
            return None
        number = int(self.labels[row])
        classes = self.about.classes if self.about else []
        return classes[number] if number < len(classes) else str(number)

    @cached_property
    def _keys(self) -> pa.ChunkedArray:
        if self.path.suffix == ".npy":
            text = self.path.with_name(self.path.name + KEYS_SUFFIX).read_bytes().decode("utf-8")
            lines = text.removesuffix("\n").split("\n")  # a name may hold any other end of a line
            if len(lines) != self.count:
                raise EmbeddingFileError(
                    f"{self.path}{KEYS_SUFFIX} has {len(lines)} keys for {self.count} embeddings.",
                    hint="The two files belong together: make them again.",
                )
            return pa.chunked_array([lines])
        return self._parquet.read(columns=["key"])["key"]

    def _open_parquet(self) -> None:
        schema = self._parquet.schema_arrow
        kind = schema.field("embedding").type
        if not pa.types.is_fixed_size_list(kind) or "key" not in schema.names:
            raise ValueError(f"its columns are {', '.join(schema.names)}")
        self.count, self.width = int(self._parquet.metadata.num_rows), int(kind.list_size)
        about = (schema.metadata or {}).get(ABOUT)
        self.about = About.from_json(about) if about else None

    def _open_matrix(self) -> None:
        if self._matrix.ndim != 2:
            raise ValueError(f"its shape is {list(self._matrix.shape)}")
        self.count, self.width = self._matrix.shape
        beside = self.path.with_name(self.path.name + ABOUT_SUFFIX)
        self.about = About.from_json(beside.read_bytes()) if beside.is_file() else None


def open_embeddings(url: str, folder: Path) -> EmbeddingFile:
    """Open a file of embeddings; one in S3 is copied into `folder` first.

    Raises:
        EmbeddingFileError: It is something else.
        StorageError: It cannot be read.
    """
    if not url.endswith(SUFFIXES):
        raise EmbeddingFileError(f"{url} is neither .parquet nor .npy.", hint="Name what `reco embed` has written.")
    if "://" not in url:
        return EmbeddingFile(Path(url))
    parent, name = split_url(url)
    storage = open_storage(parent)
    storage.download(name, folder / name)
    for suffix in (KEYS_SUFFIX, ABOUT_SUFFIX) if name.endswith(".npy") else ():
        if storage.exists(name + suffix):
            storage.download(name + suffix, folder / (name + suffix))
    return EmbeddingFile(folder / name)
