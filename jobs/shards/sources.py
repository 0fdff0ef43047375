"""Turns what a user names (a folder, a pattern, a list) into the shards that are there."""

from __future__ import annotations

import hashlib
import itertools
import os.path
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobs.shards.errors import SourceError
from jobs.storage import Storage, StoredObject, join_url, open_storage, split_url

SUFFIX = ".tar"
CLASSES = "classes.json"
"""Beside the shards: the names of the classes, in the order of their numbers."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 10_000_000
_SPLITS = ("train", "valid", "val", "test")


@dataclass(frozen=True)
class Part:
    """Shards in one folder, in their natural order.

    Args:
        storage: The folder.
        shards: Name, size and tag of each, as listed now.
        whole: Whether these are all shards of the folder, whichever they will be, rather than some by name.
    """

    storage: Storage
    shards: tuple[StoredObject, ...]
    whole: bool

    def index_place(self, index: str | None, *, patience_s: float | None = None) -> tuple[Storage, str]:
        """Where the part's index lies, and the name of its root.

        Beside the shards by default. A place given for the whole data set holds a folder for each part, since its
        other parts, and the same spec's probe sets, may have shards of the same names. `patience_s` is as
        `open_storage` has it.
        """
        url = self.storage.url
        if index is None:
            place = join_url(url, "index")
        else:
            name = re.sub(r"[^A-Za-z0-9_-]", "_", split_url(url)[1]) or "root"
            place = join_url(index, f"{name}-{_digest(url, 8)}")
        names = "\n".join(shard.key for shard in self.shards)
        storage = open_storage(place, patience_s=patience_s)
        return storage, "root.json" if self.whole else f"root-{_digest(names, 12)}.json"


def find_shards(source: str | Sequence[str], *, patience_s: float | None = None) -> list[Part]:
    """Look up what `source` names.

    Args:
        source: A folder or prefix with .tar files directly in it, a shard, a brace pattern, or a list of these.
        patience_s: As `open_storage` has it.

    Raises:
        SourceError: There are no shards, some are missing, compressed, or named twice.
        StorageError: The storage cannot be asked.
    """
    items = [source] if isinstance(source, str) else list(source)
    if not items:
        raise SourceError("No source of shards was given.", hint="Name a folder, a prefix or shards.")
    places = itertools.chain.from_iterable(_places(item) for item in items)
    parts = []
    for (folder, whole), names in itertools.groupby(places, key=lambda place: (place[0], place[1] is None)):
        if whole:
            parts += [_list_folder(folder, patience_s) for _ in names]
        else:
            parts.append(_look_up(folder, [name for _, name in names if name is not None], patience_s))
    seen: set[str] = set()
    for url in (join_url(part.storage.url, shard.key) for part in parts for shard in part.shards):
        if url in seen:
            raise SourceError(f"{url} is named twice.", hint="Every sample should come once: name it once.")
        seen.add(url)
    return parts


def expand_braces(pattern: str) -> Iterator[str]:
    """Every name a pattern stands for: `{000..017}` counts, keeping zeros in front; `{a,b}` lists.

    Raises:
        SourceError: Braces without a range or list in them, or more names than any data set has shards.
    """
    match = _BRACES.search(pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise SourceError(f"{pattern} has a brace without its partner.", hint="Write {000000..000017} or {a,b}.")
        yield pattern
        return
    counted = _RANGE.fullmatch(match[1])
    if counted:
        first, last = int(counted[1]), int(counted[2])
        if not 0 <= last - first < _MOST:
            raise SourceError(f"{pattern} counts from {first} to {last}.", hint="Count upwards.")
        choices: Iterator[str] = (str(number).zfill(len(counted[1])) for number in range(first, last + 1))
    elif "," in match[1]:
        choices = iter(match[1].split(","))
    else:
        raise SourceError(
            f"{pattern} has braces with neither a range nor a list.", hint="Write {000000..000017} or {a,b}."
        )
    for choice in choices:
        yield from expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])


def _places(item: str) -> Iterator[tuple[str, str | None]]:
    """(folder, shard) for each shard named, or (folder, None) for a whole folder."""
    for url in expand_braces(item):
        if url.endswith(_COMPRESSED):
            raise _compressed(url)
        yield split_url(url) if url.endswith(SUFFIX) else (url.rstrip("/") or url, None)


def _list_folder(url: str, patience_s: float | None) -> Part:
    storage = open_storage(url, patience_s=patience_s)
    found = list(storage.list(recursive=False))
    for item in found:
        if item.key.endswith(_COMPRESSED):
            raise _compressed(f"{storage.url}/{item.key}")
    shards = tuple(item for item in found if item.key.endswith(SUFFIX))
    if not shards:
        raise SourceError(f"There are no shards ({SUFFIX}) in {storage.url}.", hint=_advice(url, storage, patience_s))
    return Part(storage, shards, whole=True)


def _look_up(url: str, names: list[str], patience_s: float | None) -> Part:
    storage = open_storage(url, patience_s=patience_s)
    listed = {item.key: item for item in storage.list(_beginning(names), recursive=False)}
    missing = [name for name in names if name not in listed]
    if missing:
        many = (
            f"{len(missing)} of {len(names)} shards are missing, the first" if len(names) > 1 else "There is no shard"
        )
        raise SourceError(f"{many} {join_url(storage.url, missing[0])}.", hint="Check the pattern against the listing.")
    return Part(storage, tuple(listed[name] for name in names), whole=False)


def _advice(url: str, storage: Storage, patience_s: float | None) -> str:
    """What the user may have meant; only a few cheap questions, since a bucket can hold a billion objects."""
    splits = [name for name in _SPLITS if any(_tars(storage, f"{name}/"))]
    if splits:
        names = ", ".join(f"{name}/" for name in splits)
        return f"There are some in {names} below it: name one, as {join_url(url, splits[0])}."
    parent, name = split_url(url)
    beginning = list(_tars(open_storage(parent, patience_s=patience_s), name)) if name else []
    if beginning:
        return f"Shards there begin with that name: write a pattern, such as {join_url(parent, _pattern(beginning))}."
    return "Check the path; `reco data pack` makes shards of a folder of pictures."


def _tars(storage: Storage, prefix: str) -> Iterator[str]:
    return (item.key for item in storage.list(prefix, recursive=False) if item.key.endswith(SUFFIX))


def _pattern(names: list[str]) -> str:
    """The brace pattern of names that differ in one number."""
    first, last = names[0], names[-1]
    start = len(_beginning([first, last]))
    while start and first[start - 1].isdigit():
        start -= 1
    numbers = [re.match(r"\d+", name[start:]) for name in (first, last)]
    if len(names) == 1 or numbers[0] is None or numbers[1] is None:
        return first
    return f"{first[:start]}{{{numbers[0][0]}..{numbers[1][0]}}}{first[start + numbers[0].end() :]}"


def _beginning(names: list[str]) -> str:
    return os.path.commonprefix(names)  # noqa: RUF071 - keys are compared letter by letter, not folder by folder


def _compressed(url: str) -> SourceError:
    return SourceError(f"{url} is compressed: its samples cannot be read by range.", hint="Unpack it to a plain .tar.")


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
