"""Reads one tar shard through and lists its samples; refuses what the tarfile module would pass over in silence."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import google_crc32c

from jobs.shards.decode import PictureError, picture_size
from jobs.shards.errors import ShardError
from jobs.shards.records import MOST_LABEL, LeftOut, Sample
from jobs.storage import Storage, StoredObject

PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes that hold the picture, first choice first: where a sample has several, the first of these is taken."""

_BLOCK = 512
_WINDOW = 8 << 20
_ENDINGS = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_PASSED_OVER = re.compile(r"(^|/)\._|^__[^/]*__($|/)")  # macOS's shadow files; WebDataset's own notes
_DIGITS = 18  # zeros in front count; Python refuses to read thousands of digits
_CLASSES = f"Classes are whole numbers from 0 to {MOST_LABEL:,}."
_CUT = "It was cut in transfer, or is still being written: copy it again."


class Scanned(NamedTuple):
    """What a shard holds.

    Attributes:
        samples: Those that can be used, in the order in which their first members stand.
        left_out: Those that cannot, in the same order.
    """

    samples: list[Sample]
    left_out: list[LeftOut]


class _Picture(NamedTuple):
    offset: int
    length: int
    crc32c: int
    height: int
    width: int
    format: str


@dataclass
class _Draft:
    """What is known of a sample so far."""

    suffixes: set[str] = field(default_factory=set)
    pictures: dict[str, _Picture | PictureError] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


def scan_shard(
    storage: Storage,
    shard: StoredObject,
    advance: Callable[[int], None] | None = None,
    visit: Callable[[int, bytes], None] | None = None,
) -> Scanned:
    """List the samples of one shard.

    A sample is what shares a name up to the first dot, as in WebDataset; its members may come in any order, and those
    that are neither picture nor label are left alone. The label is the number in `.cls`, else an integer `label` in
    `.json`, else -1. A sample without a picture, or with one whose header cannot be read or declares more pixels than
    `MOST_PIXELS`, is left out: one bad sample should not cost the thousand beside it.

    Args:
        storage: Where the shard lies.
        shard: Its name, size and tag; every read is of this version.
        advance: Told how many more bytes of the shard are done.
        visit: Shown each picture's offset and bytes as they come by, those of samples that are left out as well.

    Raises:
        ShardError: The shard is cut, compressed, damaged, names a sample twice, has a label that makes no sense, or
            has no sample that can be used.
        StorageError: It cannot be read.
    """
    window = _Window(storage, shard, advance or (lambda _: None))
    where = f"{storage.url}/{shard.key}"
    if window.view(0, 2) == b"\x1f\x8b":
        raise ShardError(
            f"{where} is compressed: its samples cannot be read by range.", hint="Unpack it to a plain .tar."
        )
    scanned = Scanned([], [])
    for key, draft in _drafts(window, where, visit or (lambda offset, data: None)).items():
        finished = _finish(key, draft)
        if isinstance(finished, Sample):
            scanned.samples.append(finished)
        else:
            scanned.left_out.append(finished)
    if not scanned.samples:
        what = "holds no samples"
        if scanned.left_out:
            (key, reason), count = scanned.left_out[0], len(scanned.left_out)
            what = f"holds no sample that can be used, of {count} (the first, {key}: {reason})"
        raise ShardError(f"{where} {what}.", hint="Leave it out, or pack it again.")
    return scanned


def _drafts(window: _Window, where: str, visit: Callable[[int, bytes], None]) -> dict[str, _Draft]:
    """Every sample by its key; members are looked into as they come by, so that the shard is read once."""
    drafts: dict[str, _Draft] = {}
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:
            for entry in tar:
                stop = entry.offset_data + entry.size
                if entry.isreg() and -(-stop // _BLOCK) * _BLOCK > window.size:
                    raise ShardError(f"{where} is cut in {entry.name}, at offset {entry.offset_data}.", hint=_CUT)
                matched = _ENDINGS.match(entry.name)
                if not entry.isreg() or matched is None or _PASSED_OVER.search(entry.name):
                    continue
                if entry.issparse():
                    raise ShardError(f"{where} stores {entry.name} as a sparse file.", hint="Write it as a plain file.")
                key, suffix = matched[1], matched[2].lower()
                draft = drafts.setdefault(key, _Draft())
                if suffix in draft.suffixes:
                    raise ShardError(f"{where} holds {key}.{suffix} twice.", hint="Give every sample a key of its own.")
                draft.suffixes.add(suffix)
                if suffix in PICTURE_SUFFIXES:
                    data = window.view(entry.offset_data, stop)
                    draft.pictures[suffix] = _look(data, entry.offset_data)
                    visit(entry.offset_data, data)
                elif suffix in _LABELS:
                    draft.labels[suffix] = _LABELS[suffix](window.view(entry.offset_data, stop), f"{where}: {key}")
            end = tar.offset
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{where} is no readable tar at offset {window.tell()} ({error}).", hint=_CUT) from error
    _check_end(window, end, where)
    return drafts


def _check_end(window: _Window, end: int, where: str) -> None:
    """Tarfile takes a damaged or missing header for the end of the archive, so the end is looked at here."""
    # An archive ends with two blocks of zeros; one alone, at the very end of the file, is what some writers leave.
    if end + _BLOCK > window.size:
        raise ShardError(f"{where} is cut at offset {end}: the end of the archive is missing.", hint=_CUT)
    position = end
    while position < window.size:
        part = window.view(position, min(window.size, position + _WINDOW))
        if part.count(0) != len(part):
            raise ShardError(f"{where} is damaged at offset {end}: no header, and yet not its end.", hint=_CUT)
        position += len(part)


def _look(data: bytes, offset: int) -> _Picture | PictureError:
    try:
        kind, height, width = picture_size(data)
    except PictureError as error:
        return error
    return _Picture(offset, len(data), google_crc32c.value(data), height, width, kind)


def _finish(key: str, draft: _Draft) -> Sample | LeftOut:
    suffix = next((suffix for suffix in PICTURE_SUFFIXES if suffix in draft.pictures), None)
    if suffix is None:
        return LeftOut(key, f"no picture, only {', '.join(f'.{name}' for name in sorted(draft.suffixes))}")
    picture = draft.pictures[suffix]
    if isinstance(picture, PictureError):
        return LeftOut(key, f".{suffix}: {picture.message}")
    return Sample(key, *picture, draft.labels.get("cls", draft.labels.get("json", -1)))


def _class_label(data: bytes, where: str) -> int:
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal() or len(text) > _DIGITS or int(text) > MOST_LABEL:
        raise ShardError(f"{where}.cls holds {text[:40]!r}, not a class number.", hint=_CLASSES)
    return int(text)


def _json_label(data: bytes, where: str) -> int:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}.json is no JSON ({error}).", hint="Mend it, and pack again.") from error
    label = document.get("label") if isinstance(document, dict) else None
    # Many data sets keep a caption or name under this key: that is no class number, and nothing to stop for.
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        return -1
    if label > MOST_LABEL:
        raise ShardError(f"{where}.json has the label {str(label)[:40]}, not a class number.", hint=_CLASSES)
    return label


_LABELS: dict[str, Callable[[bytes, str], int]] = {"cls": _class_label, "json": _json_label}


class _Window(io.RawIOBase):
    """A stored object as a seekable file that fetches large stretches and keeps one of them."""

    def __init__(self, storage: Storage, shard: StoredObject, advance: Callable[[int], None]) -> None:
        super().__init__()
        self.size = shard.size
        self._storage = storage
        self._shard = shard
        self._advance = advance
        self._seen = 0
        self._position = 0
        self._start = 0
        self._data = b""

    def view(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) as far as the object goes."""
        stop = min(stop, self.size)
        if start < self._start or stop > self._start + len(self._data):
            self._fetch(start, stop)
        return self._data[start - self._start : stop - self._start]

    def _fetch(self, start: int, stop: int) -> None:
        stop = min(self.size, max(stop, start + _WINDOW))
        self._data = self._storage.read_range(self._shard.key, start, max(start, stop), etag=self._shard.etag)
        self._start = start
        if stop > self._seen:
            self._advance(stop - self._seen)
            self._seen = stop

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else self._position + size
        data = self.view(self._position, stop) if self._position < self.size else b""
        self._position += len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position
