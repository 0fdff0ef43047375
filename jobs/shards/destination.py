"""Where packed shards go: a prefix in S3, filled shard by shard, or a folder that appears once it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from jobs.errors import UserError
from jobs.shards.index import Root, file_of, load_root, make_root
from jobs.shards.indexing import PACKING
from jobs.shards.sources import CLASSES
from jobs.shards.unfinished import OtherPlanError, Plan, Unfinished, refuse_other_plan
from jobs.storage import Storage, StorageError, StoredObject, join_url, open_storage

_ROOT = "root.json"
_PLAN = "plan.json"
_CANNOT_RENAME = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def open_destination(
    url: str, plan: Plan, parts: Sequence[str], *, overwrite: bool, reads: Sequence[str]
) -> Iterator[Destination]:
    """Prepare a destination to be filled, or go on with one that was begun by the same plan.

    Where the body fails, what is done is kept, with its record; a destination where nothing is done is left as it was.

    Args:
        url: A folder or prefix.
        plan: What is to be packed.
        parts: Names of the folders below; one empty name for none.
        overwrite: Replace what is there, be it whole or begun by another plan.
        reads: Where the pictures come from.

    Raises:
        UserError: It is not empty, holds what nobody packed, or something unfinished of another plan.
        StorageError: It cannot be read or written.
    """
    target = open_storage(url)
    for place in reads:
        if place == target.url or place.startswith(f"{target.url}/"):
            raise UserError(f"{target.url} holds the source itself.", hint="Pack to another place.")
    if _is_local(target):
        with _beside(Path(target.url), plan, parts, overwrite) as local:
            yield local
        return
    keys = [item.key for item in target.list()]
    _refuse_foreign(target, keys, overwrite or any(_is_record(key) for key in keys))
    with tempfile.TemporaryDirectory(prefix="reco-pack-") as scratch:
        destination = Destination(target.url, target.url, Path(scratch))
        destination.begin(plan, parts, keys, overwrite)
        with destination.kept():
            yield destination


class Destination:
    """A place that is being filled.

    Args:
        url: Its final name, for people.
        root: Where it is filled; the same, or a hidden folder that is renamed at the end.
        scratch: A local folder for shards that are being written.
    """

    def __init__(self, url: str, root: str, scratch: Path) -> None:
        self.url = url
        self.scratch = scratch
        self.unfinished: dict[str, Unfinished] = {}
        """Record of each part that is not whole."""
        self.finished: dict[str, Root] = {}
        """Index of each part that was whole already."""
        self._root = open_storage(root)
        self._parts: dict[str, Storage] = {}

    def begin(self, plan: Plan, parts: Sequence[str], keys: Sequence[str], overwrite: bool) -> None:
        """Take up the records of a packing that was begun, or make them; see `open_destination`."""
        self._parts = {name: open_storage(join_url(self._root.url, name)) for name in parts}
        begun = {key.removesuffix(f"index/{PACKING}").rstrip("/") for key in keys if _is_record(key)}
        try:
            if begun - self._parts.keys():
                raise OtherPlanError(
                    f"{self.url} holds an unfinished packing with another split.",
                    hint="Give the same command as before to finish it, or begin anew with --overwrite.",
                )
            for name, part in self._parts.items():
                record = Unfinished(part, plan)
                if not record.load() and begun and record.place.exists(_ROOT):
                    self.finished[name] = load_root(record.place, _ROOT)
                else:
                    self.unfinished[name] = record
        except OtherPlanError:
            if not overwrite:
                raise
            begun = set()
        if not begun:
            # Roots go before the records come: a part that has a root and no record, beside others that have one, is
            # one that this plan has finished.
            for key in keys:
                if f"/{key}".endswith(f"/index/{_ROOT}"):
                    self._root.delete(key)
            self.finished.clear()
            self.unfinished = {name: Unfinished(part, plan) for name, part in self._parts.items()}
        for record in self.unfinished.values():
            record.keep()  # from here on nobody takes what is there for whole
        if not begun:
            mine = {self._key(name, f"index/{PACKING}") for name in self.unfinished}
            for key in set(keys) - mine:
                self._root.delete(key)

    def deliver(self, part: str, path: Path) -> StoredObject:
        """Move a shard from local disk to where it belongs.

        Raises:
            StorageError: It cannot be written, or did not arrive whole.
        """
        storage, size = self._parts[part], path.stat().st_size
        if _is_local(storage):
            _move(path, Path(storage.url) / path.name)  # on the same disk; copying would write every byte twice
        else:
            storage.upload(path.name, path)
            path.unlink()
        found = storage.stat(path.name)
        if found.size != size:
            raise StorageError(f"{storage.url}/{found.key} did not arrive whole.", hint="Give the same command again.")
        return found

    def finish(self, classes: Sequence[str]) -> dict[str, Root]:
        """Name the classes, remove what does not belong here, write the roots of the index, and last end the records.

        Returns:
            The index of each part.
        """
        roots = {
            name: self.finished.get(name) or make_root([done.entry for done in self.unfinished[name].done])
            for name in self._parts
        }
        expected = set()
        for name, root in roots.items():
            files = [f"index/{_ROOT}", f"index/{PACKING}", *([CLASSES] if classes else [])]
            for entry in root.shards:
                files += [entry.name, f"index/{file_of(entry.name)}"]
            expected |= {self._key(name, file) for file in files}
            if classes:
                text = json.dumps(list(classes), ensure_ascii=False, indent=1)
                self._parts[name].write(CLASSES, f"{text}\n".encode())
        for key in [item.key for item in self._root.list() if item.key not in expected]:
            self._root.delete(key)
        for name, record in self.unfinished.items():
            record.place.write(_ROOT, roots[name].model_dump_json().encode())
        for record in self.unfinished.values():
            record.remove()
        return roots

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the records where the body fails, or take them away where nothing is done."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(StorageError):  # what stopped the work is what has to be said
                has_work = self.has_work()
                for record in self.unfinished.values():
                    if has_work:
                        record.keep()
                    else:
                        record.remove()
            raise

    def has_work(self) -> bool:
        """Whether there is anything besides the records: without them it would pass for whole."""
        return any(not _is_record(item.key) for item in self._root.list())

    def _key(self, part: str, name: str) -> str:
        return f"{part}/{name}" if part else name


@contextlib.contextmanager
def _beside(target: Path, plan: Plan, parts: Sequence[str], overwrite: bool) -> Iterator[Destination]:
    """A hidden folder beside a local destination, which takes its place at the end; there, moving is one rename."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file.", hint="Name a folder.")
    storage = open_storage(str(target))
    _refuse_foreign(storage, [item.key for item in storage.list()], overwrite)
    beside = target.parent
    while not beside.exists():
        beside = beside.parent
    folder = beside / f".{'-'.join(target.relative_to(beside).parts)}.packing"
    fresh = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        lock = (folder / "lock").open("wb")
    except OSError as error:
        raise UserError(f"{beside} cannot be written ({error.strerror}).", hint="Name another destination.") from error
    with lock:
        _hold(lock, target)
        shards, scratch = folder / "shards", folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        destination = Destination(str(target), str(shards), scratch)
        found = _plan_of(folder)
        if found is not None and overwrite and found != plan:
            shutil.rmtree(shards, ignore_errors=True)
        elif found is not None:
            refuse_other_plan(found, plan, str(folder))
        try:
            (folder / _PLAN).write_text(plan.model_dump_json(), encoding="utf-8")
            shards.mkdir(exist_ok=True)
            scratch.mkdir()
            destination.begin(plan, parts, [item.key for item in open_storage(str(shards)).list()], overwrite)
            fresh = True  # from here on it is ours: there is something worth keeping in it, or nothing at all
            with destination.kept():
                yield destination
            _exchange(shards, target)
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            if fresh and not destination.has_work():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _hold(lock: BinaryIO, target: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
    except OSError as error:
        raise UserError(f"Another process is packing to {target}.", hint="Wait for it, or stop it.") from error


def _plan_of(folder: Path) -> Plan | None:
    try:
        return Plan.model_validate_json((folder / _PLAN).read_bytes())
    except (OSError, ValueError):
        return None


def _refuse_foreign(target: Storage, keys: Sequence[str], replace: bool) -> None:
    """Refuse to touch what is there unless that is meant, and in no case what nobody packed."""
    if keys and not replace:
        raise UserError(f"{target.url} is not empty.", hint="Name another place, or replace it with --overwrite.")
    for key in keys:
        name = key.rpartition("/")[2]
        if not (name.endswith((".tar", ".tar.json")) or name == CLASSES or "index" in key.split("/")[:-1]):
            raise UserError(
                f"{target.url} holds more than shards ({key}), and packing there would remove it.",
                hint="Name a place that holds nothing else.",
            )


def _is_local(storage: Storage) -> bool:
    return "://" not in storage.url


def _move(path: Path, to: Path) -> None:
    """Rename a file once its bytes are on the disk."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)
    except OSError as error:
        raise StorageError(f"{to} cannot be written ({error.strerror or error}).", hint="Is there room?") from error


def _is_record(key: str) -> bool:
    return f"/{key}".endswith(f"/index/{PACKING}")


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
        if error.errno not in _CANNOT_RENAME:
            raise
        raise UserError(
            f"{destination} cannot be put in place ({error.strerror}).", hint="Name a folder inside it instead."
        ) from error
