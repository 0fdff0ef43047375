"""Pictures named by a table: a CSV or parquet file of paths or URLs, with or without labels."""

from __future__ import annotations

import hashlib
import io
import os.path
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.shards import web
from jobs.shards.records import MOST_LABEL
from jobs.storage import Storage, join_url, open_storage, split_url

SUFFIXES = (".csv", ".parquet")
_PLACES = ("path", "url")
_LABEL = "label"
_DIGITS = 18  # of any number that fits 64 bits
_HINT = "Give one column called path or url, and label if there are labels."


class Listed:
    """The pictures that a table names, in its order.

    Its column `path` or `url` holds paths (relative ones from the table's own folder), s3:// or http(s):// URLs.
    Its column `label`, where there is one, holds class numbers, or names, which are numbered in the order of the
    alphabet; an empty one stands for no label.

    Args:
        url: The table, in a folder or in S3.

    Raises:
        UserError: It is no such table.
        StorageError: It cannot be read.
    """

    def __init__(self, url: str) -> None:
        folder, name = split_url(url)
        storage = open_storage(folder)
        self.places: list[str] = []
        self._folder = storage.url
        self._table = url
        table = self._read_table(storage.read(name))
        given = [column for column in _PLACES if column in table.column_names]
        if len(given) != 1:
            raise UserError(
                f"{url} has the columns {', '.join(table.column_names)}: which holds the pictures?", hint=_HINT
            )
        # As Arrow: a list of ten million strings would take ten times the memory.
        self._names = _as_text(table.column(given[0]), url, given[0])
        if len(self._names) == 0:
            raise UserError(f"{url} lists no pictures.", hint="Is it the right file?")
        empty = pc.index(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(self._names), ""), True), True).as_py()
        if empty >= 0:
            raise UserError(f"{url} names no picture in row {empty + 1}.", hint="Fill it in, or take the row out.")
        self.labels, self.classes = self._read_labels(table)
        self._storages: dict[str, Storage] = {}
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Changes when the table does; what lies behind the paths is not asked, which would take as long as reading."""
        digest = hashlib.sha256(self._folder.encode())
        for start in range(0, len(self._names), 65536):
            digest.update("\n".join(self._names.slice(start, 65536).to_pylist()).encode())
        digest.update(self.labels.tobytes())
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()

    def name(self, number: int) -> str:
        """The path or URL, as listed."""
        return str(self._names[number].as_py())

    def read(self, number: int) -> bytes:
        """The picture's bytes."""
        place = self.name(number)
        if place.startswith(web.SCHEMES):
            return web.fetch(place)
        storage, key = self._find(place)
        return storage.read(key)

    def _find(self, place: str) -> tuple[Storage, str]:
        """The storage that holds a path or URL, and its key there: one storage for each bucket, since each connects."""
        scheme, separator, rest = place.partition("://")
        if not separator and not place.startswith("/"):
            scheme, separator, rest = join_url(self._folder, place).partition("://")
        path = rest if separator else scheme
        if separator and scheme != "file":
            bucket, _, path = path.partition("/")
            root = f"{scheme}://{bucket}"
        else:
            root = "/"
        with self._lock:
            if root not in self._storages:
                self._storages[root] = open_storage(root)
        if root != "/" and not {".", ".."} & set(path.split("/")):
            return self._storages[root], path  # in S3 `a//b` is not `a/b`
        return self._storages[root], os.path.normpath("/" + path).lstrip("/")

    def _read_table(self, data: bytes) -> pa.Table:
        try:
            if self._table.lower().endswith(".parquet"):
                return pyarrow.parquet.read_table(io.BytesIO(data))
            # Numbers and names alike come as text: whether labels are numbers is for all of them to say.
            texts = pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in (*_PLACES, _LABEL)}, strings_can_be_null=True
            )
            return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=texts)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self._table} cannot be read as a table ({error}).", hint=_HINT) from error

    def _read_labels(self, table: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
        """Labels int64[n], -1 for none, and the classes' names."""
        if _LABEL not in table.column_names:
            return np.full(len(table), -1, np.int64), []
        column = table.column(_LABEL)
        if pa.types.is_integer(column.type):
            return self._checked(column), []
        texts = pc.utf8_trim_whitespace(_as_text(column, self._table, _LABEL))
        texts = pc.if_else(pc.equal(texts, ""), None, texts)
        known = texts.drop_null()
        if len(known) and pc.all(pc.match_substring_regex(known, r"^-?[0-9]+$")).as_py():
            longest = known.filter(pc.greater(pc.utf8_length(known), _DIGITS))
            if len(longest):
                raise self._no_class(longest[0].as_py())
            return self._checked(pc.cast(texts, pa.int64())), []
        classes = sorted(pc.unique(known).to_pylist())
        found = pc.fill_null(pc.index_in(texts, pa.array(classes, pa.string())), -1)
        return found.to_numpy().astype(np.int64), classes

    def _checked(self, column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
        """Whole numbers of any width as labels int64[n]."""
        least, most = pc.min_max(column).as_py().values()  # None where every label is empty
        if least is not None and least < -1:
            raise self._no_class(least)
        if most is not None and most > MOST_LABEL:
            raise self._no_class(most)
        labels: NDArray[np.int64] = pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy().astype(np.int64)
        return labels

    def _no_class(self, label: object) -> UserError:
        return UserError(
            f"{self._table} has the label {str(label)[:40]}.",
            hint=f"Classes are whole numbers from 0 to {MOST_LABEL:,}, or names; empty is none.",
        )


def _as_text(column: pa.ChunkedArray, table: str, name: str) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UserError(f"The column {name} of {table} holds {kind}, not text.", hint=_HINT)
    text = pc.cast(column, pa.large_string())
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
