"""What says of a checkpoint that it exists, and what it is; read without PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Literal

from jobs.storage import NotFoundError, Storage

_log = logging.getLogger(__name__)
PREFIX = "checkpoints/"
_PIECE = 16 << 20

State = Literal["whole", "damaged", "unfinished"]


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        step: Steps completed.
        size: Bytes of the state.
        sha256: Hash of the state's bytes.
        spec_hash: Hash of the spec it belongs to.
        dataset_hash: Hash of the index of the data it was trained on.
    """

    step: int
    size: int
    sha256: str
    spec_hash: str
    dataset_hash: str


@dataclass(frozen=True)
class Kept:
    """A checkpoint as it lies in a run's folder.

    Attributes:
        step: Steps completed.
        size: Bytes of the state that are there.
        state: `damaged` where these are not the bytes that were written, `unfinished` where the manifest, which is
            written last, is not there.
    """

    step: int
    size: int
    state: State


def folder_of(step: int) -> str:
    """Key of a checkpoint's folder below the run's."""
    return f"{PREFIX}step-{step:012d}"


def step_of(key: str) -> int:
    """The step of the checkpoint that an object below `PREFIX` belongs to."""
    return int(key.removeprefix(f"{PREFIX}step-").split("/")[0])


def stored_sha256(storage: Storage, key: str) -> str:
    """SHA-256 of an object as it is stored, read piece by piece."""
    stored, digest = storage.stat(key), hashlib.sha256()
    piece = memoryview(bytearray(min(_PIECE, stored.size)))
    for start in range(0, stored.size, _PIECE):
        part = piece[: min(_PIECE, stored.size - start)]
        storage.read_into(key, start, part, etag=stored.etag)
        digest.update(part)
    return digest.hexdigest()


def list_manifests(storage: Storage) -> list[Manifest]:
    """The checkpoints that have a manifest, newest first."""
    manifests = []
    for stored in storage.list(PREFIX):
        if stored.key.endswith("/manifest.json"):
            try:
                manifests.append(Manifest(**json.loads(storage.read(stored.key))))
            except NotFoundError:
                continue  # the attempt that is at work has a newer one, and dropped this
            except (ValueError, TypeError) as error:
                _log.warning("%s/%s is damaged and left out: %s", storage.url, stored.key, error)
    return sorted(manifests, key=lambda manifest: -manifest.step)


def survey(storage: Storage, *, verify: bool) -> list[Kept]:
    """All checkpoints in a run's folder, newest first.

    Args:
        storage: The run's folder.
        verify: Read each state and compare its hash; otherwise its size is compared.
    """
    manifests = {manifest.step: manifest for manifest in list_manifests(storage)}
    sizes: dict[int, int] = {}
    unreadable = set()
    for stored in storage.list(f"{PREFIX}step-"):
        step = step_of(stored.key)
        sizes[step] = max(sizes.get(step, 0), stored.size if stored.key.endswith("/state.pt") else 0)
        if stored.key.endswith("/manifest.json") and step not in manifests:
            unreadable.add(step)
    found = []
    for step, size in sorted(sizes.items(), reverse=True):
        state: State = "damaged" if step in unreadable else "unfinished"
        if step in manifests:
            manifest = manifests[step]
            good = size == manifest.size
            if good and verify:
                good = stored_sha256(storage, f"{folder_of(step)}/state.pt") == manifest.sha256
            state = "whole" if good else "damaged"
        found.append(Kept(step, size, state))
    return found
