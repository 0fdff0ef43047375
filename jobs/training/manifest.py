"""What says of a checkpoint that it exists, and what it is; read without PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Literal

from jobs.storage import Storage

_log = logging.getLogger(__name__)
PREFIX = "checkpoints/"

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


def list_manifests(storage: Storage) -> list[Manifest]:
    """The checkpoints that have a manifest, newest first."""
    manifests = []
    for stored in storage.list(PREFIX):
        if stored.key.endswith("/manifest.json"):
            try:
                manifests.append(Manifest(**json.loads(storage.read(stored.key))))
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
    for stored in storage.list(PREFIX):
        step = int(stored.key.removeprefix(f"{PREFIX}step-").split("/")[0])
        sizes[step] = max(sizes.get(step, 0), stored.size if stored.key.endswith("/state.pt") else 0)
        if stored.key.endswith("/manifest.json") and step not in manifests:
            unreadable.add(step)
    found = []
    for step, size in sorted(sizes.items(), reverse=True):
        state: State = "damaged" if step in unreadable else "unfinished"
        if step in manifests:
            good = size == manifests[step].size and (not verify or _is_as_written(storage, manifests[step]))
            state = "whole" if good else "damaged"
        found.append(Kept(step, size, state))
    return found


def _is_as_written(storage: Storage, manifest: Manifest) -> bool:
    data = storage.read(f"{folder_of(manifest.step)}/state.pt")
    return hashlib.sha256(data).hexdigest() == manifest.sha256
