"""Packs pictures into shards with an index: all of them, or nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.shards.decode import picture_format
from jobs.shards.index import Root, copy_index
from jobs.shards.indexing import open_index
from jobs.shards.pictures import PictureSource, Unreadable, find_unreadable, open_pictures
from jobs.shards.sources import CLASSES, find_shards
from jobs.shards.split import divide
from jobs.storage import Storage, StorageError, join_url, open_storage

Report = Callable[[str, int, int], None]
"""Called with what is going on, how much is done and how much there is."""

_SUFFIX_OF = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_SHOWN = 5
_BLOCK = 512


@dataclass(frozen=True)
class Packed:
    """One part that was packed.

    Attributes:
        url: Where its shards lie.
        samples: How many pictures.
        shards: How many shards.
        hash: The data set's hash, as its index has it.
    """

    url: str
    samples: int
    shards: int
    hash: str


@dataclass(frozen=True)
class Packing:
    """What packing came to.

    Attributes:
        parts: By name; the only part's name is empty where there was no split.
        classes: Names of the classes, in the order of their numbers.
        left_out: Unreadable pictures that were left out.
    """

    parts: dict[str, Packed]
    classes: list[str]
    left_out: list[Unreadable]


def pack(
    source: str,
    destination: str,
    *,
    shard_bytes: int,
    shard_samples: int | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    report: Report = lambda what, done, total: None,
) -> Packing:
    """Pack pictures into shards, shuffled by `seed`, and index them.

    Every picture is decoded once before anything is written. Bytes are stored as they are. The same pictures, options
    and seed give the same shards. The work is done in a temporary folder: a local destination appears whole at the
    end; in S3 the shards are uploaded, then the index, and removed again where that fails. With `overwrite` a local
    destination is exchanged at the end, one in S3 is overwritten shard by shard.

    Args:
        source: A folder or prefix of pictures, or `digits`.
        destination: A folder or prefix.
        shard_bytes: Most bytes in a shard (a larger picture gets a shard of its own).
        shard_samples: Most pictures in a shard.
        fractions: Shares by name; each part goes to a folder of its name.
        seed: Of the shuffle and the split.
        skip_unreadable: Leave out what cannot be decoded instead of giving up.
        overwrite: Replace what was packed at the destination before.
        report: Told of progress.

    Raises:
        UserError: Nothing to pack, unreadable pictures, or a destination that is not empty.
        StorageError: Something cannot be read or written.
    """
    target = open_storage(destination)
    old = _check_target(target, overwrite)
    pictures = open_pictures(source)
    unreadable = _check_pictures(pictures, skip_unreadable, report)
    bad = {item.number for item in unreadable}
    chosen = [number for number in range(len(pictures.labels)) if number not in bad]
    parts = divide(pictures.labels, chosen, fractions or {"": 1.0}, seed)
    with _temporary_folder(target) as folder:
        done = 0
        for name, numbers in parts.items():
            (folder / name).mkdir(exist_ok=True)
            _write_classes(folder / name, pictures.classes)
            for _ in _write_shards(pictures, numbers, folder / name, name or "shard", shard_bytes, shard_samples):
                done += 1
                report("packing", done, len(chosen))
        roots = {
            name: _index(folder / name, lambda now, all_: report("indexing", now, all_), rebuild=False)
            for name in parts
        }
        if _is_local(target):
            _exchange(folder, Path(target.url))
        else:
            _upload(folder, target, roots, old, report)
    packed = {
        name: Packed(
            url=join_url(target.url, name),
            samples=sum(entry.count for entry in root.shards),
            shards=len(root.shards),
            hash=root.content,
        )
        for name, root in roots.items()
    }
    return Packing(packed, pictures.classes, unreadable)


def _check_target(target: Storage, overwrite: bool) -> list[str]:
    """The keys at the destination; refuses to touch what nobody packed."""
    if _is_local(target) and Path(target.url).exists() and not Path(target.url).is_dir():
        raise UserError(f"{target.url} is a file.", hint="Name a folder.")
    old = [item.key for item in target.list()]
    if old and not overwrite:
        raise UserError(f"{target.url} is not empty.", hint="Name another place, or replace it with --overwrite.")
    for key in old:
        name = key.rpartition("/")[2]
        if not (name.endswith((".tar", ".tar.json")) or name == CLASSES or "index" in key.split("/")[:-1]):
            raise UserError(
                f"{target.url} holds more than shards ({key}), and --overwrite would remove it.",
                hint="Name a place that holds nothing else.",
            )
    return old


def _check_pictures(pictures: PictureSource, skip: bool, report: Report) -> list[Unreadable]:
    count = len(pictures.labels)
    unreadable: list[Unreadable] = []
    for done, found in find_unreadable(pictures, threads=os.cpu_count() or 1):
        unreadable += found
        report("checking", done, count)
    if unreadable and (not skip or len(unreadable) == count):
        first = "; ".join(f"{item.name}: {item.reason}" for item in unreadable[:_SHOWN])
        more = ", …" if len(unreadable) > _SHOWN else ""
        raise UserError(
            f"{len(unreadable)} of {count} pictures cannot be read ({first}{more}); nothing was written.",
            hint="Mend or remove them, or leave them out with --skip-unreadable.",
        )
    return unreadable


def _write_shards(
    pictures: PictureSource,
    numbers: Sequence[int],
    folder: Path,
    name: str,
    shard_bytes: int,
    shard_samples: int | None,
) -> Iterator[int]:
    """Write the shards of one part; yields each picture's number once it is written."""
    import webdataset  # brings torch along, two seconds that a mistake in the arguments or an index should not take

    pattern = str(folder).replace("%", "%%") + f"/{name}-%06d.tar"
    digits = max(6, len(str(len(numbers) - 1)))
    # A fixed time makes the same pictures the same bytes. Limits are kept here: the writer counts without headers.
    with webdataset.ShardWriter(pattern, maxcount=2**62, maxsize=2**62, verbose=0, encoder=False, mtime=0) as writer:
        samples, size = 0, 2 * _BLOCK
        for place, number in enumerate(numbers):
            data, label = pictures.read(number), int(pictures.labels[number])
            kind = picture_format(data)
            if kind is None:
                raise StorageError(f"{pictures.name(number)} was changed while it was packed.", hint="Pack again.")
            sample: dict[str, str | bytes] = {"__key__": f"{place:0{digits}d}", _SUFFIX_OF[kind]: data}
            if label >= 0:
                sample["cls"] = str(label).encode()
            needed = sum(_in_tar(len(value)) for key, value in sample.items() if key != "__key__")
            if samples and (size + needed > shard_bytes or samples == shard_samples):
                writer.next_stream()
                samples, size = 0, 2 * _BLOCK
            writer.write(sample)
            samples, size = samples + 1, size + needed
            yield number


def _in_tar(length: int) -> int:
    return _BLOCK + -(-length // _BLOCK) * _BLOCK


def _write_classes(folder: Path, classes: list[str]) -> None:
    if classes:
        (folder / CLASSES).write_text(json.dumps(classes, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _index(folder: Path, progress: Callable[[int, int], None], *, rebuild: bool) -> Root:
    (part,) = find_shards(str(folder))
    return open_index(part, None, progress=progress, rebuild=rebuild)


def _is_local(storage: Storage) -> bool:
    return "://" not in storage.url


@contextlib.contextmanager
def _temporary_folder(target: Storage) -> Iterator[Path]:
    """A folder to work in, gone afterwards; beside a local destination, so that moving it there is one rename."""
    if not _is_local(target):
        with tempfile.TemporaryDirectory(prefix="reco-pack-") as name:
            yield Path(name)
        return
    beside = Path(target.url).parent
    while not beside.exists():
        beside = beside.parent
    folder = beside / f".{Path(target.url).name}.packing-{os.getpid()}"
    try:  # around the creation too: Ctrl-C may come right after it
        try:
            folder.mkdir()
        except OSError as error:
            raise UserError(
                f"{beside} cannot be written ({error.strerror}).", hint="Name another destination."
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(folder: Path, destination: Path) -> None:
    """Put `folder` where `destination` is; what was there goes only once the new is in place."""
    destination = destination.resolve()
    destination.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{folder.name}-old")
    try:
        if destination.exists():
            destination.rename(aside)
        try:
            folder.rename(destination)
        except BaseException:
            if aside.exists():
                aside.rename(destination)
            raise
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM):
            raise
        raise UserError(
            f"{destination} cannot be put in place ({error.strerror}).", hint="Name a folder inside it instead."
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


def _upload(folder: Path, target: Storage, roots: Mapping[str, Root], old: Sequence[str], report: Report) -> None:
    """Upload shards and class names, then the indexes; takes everything back where that fails."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "index"]
    total, done = sum(path.stat().st_size for path in files), 0
    keys: list[str] = []
    try:
        # Without its root an index is none: nobody takes the old one for a description of the new shards.
        for key in [key for key in old if "index" in key.split("/")[:-1]]:
            target.delete(key)
        for path in files:
            keys.append(path.relative_to(folder).as_posix())
            target.upload(keys[-1], path)
            done += path.stat().st_size
            report("uploading", done, total)
        for name, root in roots.items():
            place = f"{name}/index" if name else "index"
            keys += [f"{place}/{entry.name}.json" for entry in root.shards] + [f"{place}/root.json"]
            (part,) = find_shards(join_url(target.url, name))
            copy_index(root, open_storage(str(folder / place)), part)
        for key in set(old) - set(keys):
            target.delete(key)
    except BaseException:
        for key in keys:
            with contextlib.suppress(StorageError):
                target.delete(key)
        raise
