"""The parts of an embedding job: finished ones outlive the process, and are used again only for the very same work."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic

from jobs.embedding.encoder import Floats
from jobs.embedding.errors import OtherWorkError
from jobs.embedding.worker import Part, Skipped
from jobs.errors import UserError
from jobs.storage import NotFoundError, join_url, open_storage, split_url
from jobs.storage.base import TEMPORARY

SIZE = 1024
"""Pictures in a part: what a restart may have to embed again, per worker."""

_MANIFEST = "manifest.json"
_PART = re.compile(r"part-(\d{6,})\.(parquet|skipped\.json)")
_RESTART = "Add `--restart` to throw them away and begin anew, or name another output."


class Manifest(pydantic.BaseModel):
    """What all parts of a folder have in common; a field's title is what messages call it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    model: str = pydantic.Field(title="the encoder")
    """SHA-256 of its weights."""
    preprocessing: dict[str, object] = pydantic.Field(title="its preprocessing")
    source: str = pydantic.Field(title="the pictures")
    """Identity of the pictures: hash of the shards' index, or of names, sizes and tags of the files."""
    pictures: int = pydantic.Field(title="the number of pictures")
    part: int = pydantic.Field(title="the size of a part")
    batch: int = pydantic.Field(title="the size of a batch")


class PartsFolder:
    """A folder or S3 prefix of finished parts.

    Args:
        url: The folder.
        manifest: The work.
        restart: Throw away what is there.

    Raises:
        OtherWorkError: Its parts are of other work.
        StorageError: It cannot be read or written.
    """

    def __init__(self, url: str, manifest: Manifest, *, restart: bool = False) -> None:
        parent, self._name = split_url(url.rstrip("/"))
        self._storage = open_storage(parent)
        self.url = join_url(self._storage.url, self._name)
        if restart:
            self.remove()
        try:
            found = self._storage.read(self._key(_MANIFEST))
        except NotFoundError:
            self.remove()  # without a manifest nobody knows what they are
            self._storage.write(self._key(_MANIFEST), manifest.model_dump_json(indent=2).encode() + b"\n")
        else:
            self._check(found, manifest)

    def finished(self) -> set[int]:
        """Numbers of the parts that are there."""
        return self._listed("parquet")

    def write(self, number: int, data: bytes, skipped: Sequence[Skipped]) -> None:
        """Keep a part, as `to_bytes` made it, and what is missing from it; the part comes last and counts."""
        if skipped:
            lines = json.dumps([list(each) for each in skipped], ensure_ascii=False)
            self._storage.write(self._part(number, "skipped.json"), lines.encode())
        self._storage.write(self._part(number), data)

    def skipped(self) -> dict[int, list[Skipped]]:
        """Pictures that cannot be used, by number of the finished part they are missing from."""
        numbers = sorted(self._listed("skipped.json") & self.finished())
        return {
            number: [Skipped(*each) for each in json.loads(self._storage.read(self._part(number, "skipped.json")))]
            for number in numbers
        }

    def read(self, number: int) -> Part:
        """A finished part.

        Raises:
            UserError: It is damaged.
            StorageError: It cannot be read.
        """
        try:
            return from_bytes(self._storage.read(self._part(number)))
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise UserError(f"{join_url(self.url, self._part(number))} is damaged ({error}).", hint=_RESTART) from error

    def remove(self) -> None:
        """Remove every part and the manifest, which goes last: without it, parts that are left would be nobody's."""
        for item in list(self._storage.list(self._key("part-"), recursive=False)):
            if _PART.fullmatch(item.key.rpartition("/")[2]):
                self._storage.delete(item.key)
        self._storage.delete(self._key(_MANIFEST))
        folder = Path(self.url)
        if "://" not in self.url and folder.is_dir():
            for path in folder.glob(f"{TEMPORARY}*"):  # what a process that was killed has left
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds something else, which is not ours
                folder.rmdir()

    def _check(self, found: bytes, manifest: Manifest) -> None:
        where = f"{self.url}/{_MANIFEST}"
        try:
            known = Manifest.model_validate_json(found)
        except pydantic.ValidationError as error:
            raise OtherWorkError(f"{where} cannot be read.", hint=_RESTART) from error
        fields = Manifest.model_fields
        differing = [str(fields[name].title) for name in fields if getattr(known, name) != getattr(manifest, name)]
        if differing:
            raise OtherWorkError(
                f"{self.url} holds finished parts of other work: {', '.join(differing)} differ"
                f"{'s' if len(differing) == 1 else ''}.",
                hint=_RESTART,
            )

    def _listed(self, ending: str) -> set[int]:
        names = (item.key.rpartition("/")[2] for item in self._storage.list(self._key("part-"), recursive=False))
        return {int(match[1]) for name in names if (match := _PART.fullmatch(name)) and match[2] == ending}

    def _part(self, number: int, ending: str = "parquet") -> str:
        return self._key(f"part-{number:06d}.{ending}")

    def _key(self, name: str) -> str:
        return f"{self._name}/{name}"


def to_bytes(part: Part) -> bytes:
    """A part as parquet, without what is missing from it."""
    buffer = io.BytesIO()
    # Vectors hold no value twice: a dictionary of them would only be built to be thrown away.
    pq.write_table(to_table(part), buffer, use_dictionary=False)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Part:
    """What `to_bytes` was given, `skipped` apart.

    Raises:
        ArrowException, ValueError, KeyError: It is something else.
    """
    table = pq.read_table(io.BytesIO(data))
    return Part(
        table["key"].to_pylist(),
        table["label"].to_numpy() if "label" in table.column_names else None,
        matrix(table["embedding"]),
        [],
    )


def to_table(part: Part) -> pa.Table:
    """Columns key, label where known, and embedding, a list of fixed size of float32."""
    columns = {"key": pa.array(part.keys, pa.string())}
    if part.labels is not None:
        columns["label"] = pa.array(part.labels, pa.int64())
    values = pa.array(np.ascontiguousarray(part.features).ravel())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, part.features.shape[1])
    return pa.table(columns)


def matrix(column: pa.ChunkedArray | pa.Array) -> Floats:
    """A column of lists of fixed size as float32 [n, c]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # of no chunk at all
        return np.empty((0, column.type.list_size), np.float32)
    values = np.asarray(array.flatten().to_numpy(zero_copy_only=False), np.float32)
    return values.reshape(len(array), column.type.list_size)
