"""Checkpoints: a state and, written last, its manifest with a SHA-256; the newest whole one is used."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from dataclasses import asdict
from typing import Any

import torch

from jobs.errors import RecoError
from jobs.storage import Storage
from jobs.training.fence import Fence
from jobs.training.manifest import PREFIX, Manifest, folder_of, list_manifests

_log = logging.getLogger(__name__)


class CheckpointError(RecoError):
    """A checkpoint exists and cannot be used."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        storage: The run's folder.
        keep: How many to keep; older ones are deleted after a newer one is whole.
        fence: Whose right to write is looked at before a checkpoint comes to exist; None where only reading.
    """

    def __init__(self, storage: Storage, *, keep: int, fence: Fence | None = None) -> None:
        self._storage = storage
        self._keep = keep
        self._fence = fence

    def save(self, state: dict[str, Any], *, step: int, spec_hash: str, dataset_hash: str) -> Manifest:
        """Write a checkpoint; it exists once its manifest does.

        Raises:
            FencedError: A newer attempt has taken the run over; nothing of this one's comes to exist.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        manifest = Manifest(step, len(data), hashlib.sha256(data).hexdigest(), spec_hash, dataset_hash)
        self._storage.write(f"{folder_of(step)}/state.pt", data)
        if self._fence is not None:
            self._fence.check()  # as late as can be: a large state takes a while to write
        self._storage.write(f"{folder_of(step)}/manifest.json", json.dumps(asdict(manifest)).encode())
        for old in self.list()[self._keep :]:
            self._delete(old.step)
        return manifest

    def list(self) -> list[Manifest]:
        """The checkpoints that have a manifest, newest first."""
        return list_manifests(self._storage)

    def load(self, step: int) -> dict[str, Any]:
        """The state of the checkpoint of a step, on the CPU.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        for manifest in self.list():
            if manifest.step == step:
                return self._read(manifest)
        raise CheckpointError(f"{self._storage.url}/{folder_of(step)} is gone.", hint="Continue the run once more.")

    def load_newest(self, *, spec_hash: str, dataset_hash: str) -> tuple[Manifest, dict[str, Any]] | None:
        """The newest checkpoint that is whole, on the CPU, or None where there is none.

        Raises:
            CheckpointError: If it belongs to another spec or other data, or if all that exist are damaged.
        """
        manifests = self.list()
        for manifest in manifests:
            for what, expected, found in (
                ("spec", spec_hash, manifest.spec_hash),
                ("data index", dataset_hash, manifest.dataset_hash),
            ):
                if expected != found:
                    raise CheckpointError(
                        f"checkpoint {self._storage.url}/{folder_of(manifest.step)} was made with another {what} "
                        f"({found}, now {expected}).",
                        hint="Continue with the spec and the data the run was started with, or start a new run.",
                    )
            try:
                return manifest, self._read(manifest)
            except (CheckpointError, RecoError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                _log.warning(
                    "checkpoint of step %d is damaged, falling back to the one before: %s", manifest.step, error
                )
        if manifests:
            raise CheckpointError(
                f"all {len(manifests)} checkpoints in {self._storage.url}/{PREFIX} are damaged.",
                hint="Start a new run, or restore that folder.",
            )
        return None

    def _read(self, manifest: Manifest) -> dict[str, Any]:
        key = f"{folder_of(manifest.step)}/state.pt"
        data = self._storage.read(key)
        if hashlib.sha256(data).hexdigest() != manifest.sha256:
            raise CheckpointError(f"{self._storage.url}/{key} is not what its manifest says: {len(data)} bytes.")
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state

    def _delete(self, step: int) -> None:
        # The manifest goes first: a checkpoint without one does not exist, one without a state would be damaged.
        for name in ("manifest.json", "state.pt"):
            self._storage.delete(f"{folder_of(step)}/{name}")
