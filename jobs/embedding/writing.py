"""The output: every part in order in one parquet or npy file, whole or not at all, with what it is of beside it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from jobs.embedding.errors import EmbeddingFileError
from jobs.embedding.parts import PartsFolder, to_table
from jobs.embedding.worker import Skipped
from jobs.storage import join_url, open_storage, split_url
from jobs.storage.base import write_atomically

SUFFIXES = (".parquet", ".npy")
ABOUT = b"reco.about"
ABOUT_SUFFIX, KEYS_SUFFIX, SKIPPED_SUFFIX = ".about.json", ".keys.txt", ".skipped.jsonl"


@dataclass(frozen=True)
class About:
    """What the vectors of a file are of. Nothing in it depends on when, where or by how many they were made.

    Attributes:
        model: The encoder, `name/version` or its folder.
        sha256: Of its weights.
        preprocessing: What pictures went through.
        source: Where the pictures were: one folder or prefix, or shards.
        classes: Names of the classes, where known.
    """

    model: str
    sha256: str
    preprocessing: dict[str, object]
    source: list[str]
    classes: list[str]

    def to_json(self) -> bytes:
        """As it is kept."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> About:
        """What `to_json` made.

        Raises:
            ValueError, TypeError: It is something else.
        """
        return cls(**json.loads(data))


class Output:
    """The file to write, and those that belong to it, on disk or in S3.

    Args:
        url: A .parquet or .npy file.

    Raises:
        EmbeddingFileError: It cannot be one.
    """

    def __init__(self, url: str) -> None:
        if not url.endswith(SUFFIXES):
            raise EmbeddingFileError(
                f"{url} is neither .parquet nor .npy.", hint="Name the output file with one of these endings."
            )
        if "://" not in url and Path(url).is_dir():
            raise EmbeddingFileError(f"{url} is a folder.", hint="Name a file.")
        folder, self._name = split_url(url)
        self._storage = open_storage(folder)
        self.url = url
        self.is_matrix = url.endswith(".npy")

    @property
    def parts_url(self) -> str:
        """Where parts are kept by default."""
        return f"{join_url(self._storage.url, self._name)}.parts"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A file to write to, which becomes the output once it is whole."""
        if "://" in self._storage.url:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / self._name
                with path.open("wb") as file:
                    yield file
                self._storage.upload(self._name, path)
            return
        path = Path(self._storage.url) / self._name
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
            yield file

    def write_beside(self, suffix: str, data: bytes | None) -> None:
        """Write a file that belongs to the output; None removes one of an earlier run."""
        if data is None:
            self._storage.delete(self._name + suffix)
        else:
            self._storage.write(self._name + suffix, data)


def write_output(output: Output, parts: PartsFolder, numbers: Sequence[int], about: About) -> tuple[int, int]:
    """Write the finished parts in order; returns how many vectors of how many numbers there are.

    Raises:
        StorageError: Something cannot be read or written.
    """
    if output.is_matrix:
        return _write_matrix(output, parts, numbers, about)
    rows = width = 0
    with output.open() as file:
        writer: pq.ParquetWriter | None = None
        for number in numbers:
            part = parts.read(number)
            table = to_table(part).replace_schema_metadata({ABOUT: about.to_json()})
            writer = writer or pq.ParquetWriter(file, table.schema, use_dictionary=False)
            if len(table):
                writer.write_table(table)
            rows, width = rows + len(table), part.features.shape[1]
        if writer is not None:
            writer.close()
    return rows, width


def write_skipped(output: Output, skipped: Iterable[Skipped]) -> None:
    """Write FILE.skipped.jsonl, a line for each picture that could not be used; none where there are none."""
    lines = [json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in skipped]
    output.write_beside(SKIPPED_SUFFIX, "".join(lines).encode() if lines else None)


def _write_matrix(output: Output, parts: PartsFolder, numbers: Sequence[int], about: About) -> tuple[int, int]:
    """An npy file says first how many rows it has, so the parts are read twice: once for their keys."""
    keys: list[str] = []
    width = 0
    for number in numbers:
        part = parts.read(number)
        keys += part.keys
        width = part.features.shape[1]
    with output.open() as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(keys), width)}
        np.lib.format.write_array_header_1_0(file, header)
        for number in numbers:
            file.write(np.ascontiguousarray(parts.read(number).features, "<f4").tobytes())
        output.write_beside(KEYS_SUFFIX, "".join(f"{key}\n" for key in keys).encode())
        output.write_beside(ABOUT_SUFFIX, about.to_json() + b"\n")
    return len(keys), width
