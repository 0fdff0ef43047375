"""How a checkpoint comes to exist: its state, read back and compared, and last its manifest; then older ones go."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.checkpoints.fence import Fence
from jobs.checkpoints.manifest import PREFIX, Manifest, folder_of, list_manifests, step_of, stored_sha256
from jobs.run_folder import Record, RunFolder
from jobs.storage import Storage, StorageError

_TRIES = 3
_PIECE = 1 << 20


@dataclass(frozen=True)
class Draft:
    """A checkpoint to be.

    Attributes:
        folder: The run's.
        step: Steps completed.
        spec_hash: Hash of the spec it belongs to.
        dataset_hash: Hash of the index of the data it was trained on.
        records: Of the steps since the checkpoint before.
        keep: Newest checkpoints that stay.
        fence: Whose right to write is looked at first and last; None where nobody else can be at work.
    """

    folder: RunFolder
    step: int
    spec_hash: str
    dataset_hash: str
    records: tuple[Record, ...] = ()
    keep: int = 3
    fence: Fence | None = None


def publish(draft: Draft, descriptor: int) -> Manifest:
    """Make a checkpoint of a draft and the bytes of its state.

    Args:
        draft: What it is.
        descriptor: Of a file with the bytes; it stays open.

    Raises:
        FencedError: A newer attempt has taken the run over; nothing of this one's comes to exist.
        StorageError: What is stored is not what was written, again and again, or cannot be written.
    """
    storage = draft.folder.storage
    state = Path(f"/proc/self/fd/{descriptor}")
    manifest = Manifest(draft.step, os.fstat(descriptor).st_size, _sha256(state), draft.spec_hash, draft.dataset_hash)
    if draft.fence is not None:
        draft.fence.check()
    draft.folder.write_records(list(draft.records), step=draft.step)
    _upload(storage, f"{folder_of(draft.step)}/state.pt", state, manifest)
    if draft.fence is not None:
        draft.fence.check()  # as late as can be: a large state takes a while to write
    storage.write(f"{folder_of(draft.step)}/manifest.json", json.dumps(asdict(manifest)).encode())
    _delete_older(storage, draft.keep)
    return manifest


def _upload(storage: Storage, key: str, state: Path, manifest: Manifest) -> None:
    # Read back and compared: the next attempt would only find out when the state it replaces is long gone.
    for _ in range(_TRIES):
        storage.upload(key, state)
        if stored_sha256(storage, key) == manifest.sha256:
            return
    raise StorageError(
        f"{storage.url}/{key} was written {_TRIES} times, and never read back as it was written.",
        hint="Look at that disk or server before anything else is kept there.",
    )


def _delete_older(storage: Storage, keep: int) -> None:
    kept = list_manifests(storage)[:keep]
    older = [stored.key for stored in storage.list(PREFIX) if step_of(stored.key) < kept[-1].step]
    # Manifests go first: a checkpoint without one does not exist, one without a state would be damaged.
    for key in sorted(older, key=lambda key: not key.endswith("/manifest.json")):
        storage.delete(key)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
