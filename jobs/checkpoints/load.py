"""Which checkpoint a run continues from: the newest whole one, whatever happened to those after it."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from typing import Any

import torch

from jobs.checkpoints.manifest import PREFIX, Manifest, folder_of, list_manifests
from jobs.errors import RecoError
from jobs.storage import Storage

_log = logging.getLogger(__name__)


class CheckpointError(RecoError):
    """A checkpoint exists and cannot be used."""


def load_newest(
    storage: Storage, *, spec_hash: str | None, dataset_hash: str | None
) -> tuple[Manifest, dict[str, Any]] | None:
    """The newest checkpoint of a run that is whole, its state on the CPU, or None where there is none.

    Args:
        storage: The run's folder.
        spec_hash: Hash of the spec that the run is continued with; None takes any.
        dataset_hash: Hash of the index of its data now; None takes any.

    Raises:
        CheckpointError: If it belongs to another spec or other data, or if all that exist are damaged.
    """
    manifests = list_manifests(storage)
    for manifest in manifests:
        for what, expected, found in (
            ("spec", spec_hash, manifest.spec_hash),
            ("data index", dataset_hash, manifest.dataset_hash),
        ):
            if expected not in (None, found):
                raise CheckpointError(
                    f"checkpoint {storage.url}/{folder_of(manifest.step)} was made with another {what} "
                    f"({found}, now {expected}).",
                    hint="Continue with the spec and the data the run was started with, or start a new run.",
                )
        try:
            return manifest, _read(storage, manifest)
        except (RecoError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            _log.warning("checkpoint of step %d is damaged, falling back to the one before: %s", manifest.step, error)
    if manifests:
        raise CheckpointError(
            f"all {len(manifests)} checkpoints in {storage.url}/{PREFIX} are damaged.",
            hint="Start a new run, or restore that folder.",
        )
    return None


def load(storage: Storage, step: int) -> dict[str, Any]:
    """The state of the checkpoint of a step, on the CPU.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    for manifest in list_manifests(storage):
        if manifest.step == step:
            return _read(storage, manifest)
    raise CheckpointError(f"{storage.url}/{folder_of(step)} is gone.", hint="Continue the run once more.")


def _read(storage: Storage, manifest: Manifest) -> dict[str, Any]:
    key = f"{folder_of(manifest.step)}/state.pt"
    data = storage.read(key)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise CheckpointError(f"{storage.url}/{key} is not what its manifest says: {len(data)} bytes.")
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state
