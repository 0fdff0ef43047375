"""What a fork begins with: the encoders of another run's newest whole checkpoint, copied into its own folder."""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from jobs.checkpoints.load import CheckpointError, load_newest
from jobs.checkpoints.manifest import PREFIX, list_manifests
from jobs.errors import UserError
from jobs.run_folder import Origin, RunFolder
from jobs.spec import RunSpec
from jobs.storage import NotFoundError

_log = logging.getLogger(__name__)


class Encoders(TypedDict):
    """State of the query encoder and of the key encoder: backbone, projection head, batch statistics."""

    query: dict[str, Tensor]
    key: dict[str, Tensor]


def begin_from(folder: RunFolder, url: str, spec: RunSpec) -> Origin | None:
    """Choose what a fork begins with, once: encoders are copied, everything else of it is new.

    The copy makes every restart exact, also one before the fork's first checkpoint, whatever becomes of the other run.

    Args:
        folder: The fork's.
        url: Folder of the run to begin with, on disk or in S3.
        spec: The fork's.

    Returns:
        What it begins with; None where the run has checkpoints of its own and began with none of another.

    Raises:
        UserError: There is no such run, its encoder is another, it has no whole checkpoint, or the fork was started
            with another run.
    """
    url = url.rstrip("/")
    known, begun = folder.origin(), bool(list_manifests(folder.storage))
    if begun or known is not None:
        if known is not None and known.url != url and not begun:
            raise UserError(
                f"run {folder.run_id} was started with the weights of {known.url}, not of {url}.",
                hint="Continue it as it was started, or fork under another --run-id.",
            )
        return known
    parent, _, run_id = url.rpartition("/")
    other = RunFolder(parent or ".", run_id)
    _check_encoder(folder, other, spec)
    try:
        found = load_newest(other.storage, spec_hash=None, dataset_hash=None)
    except CheckpointError as error:
        raise UserError(f"run {run_id} cannot be forked: {error.message}", hint="Fork another run.") from error
    if found is None:
        raise UserError(
            f"run {run_id} cannot be forked: there is no whole checkpoint in {other.url}/{PREFIX}.",
            hint="Wait for its first one (`reco runs checkpoints`), or fork another run.",
        )
    manifest, state = found
    encoders = Encoders(query=_part(state["model"], "query_encoder."), key=_part(state["model"], "key_encoder."))
    # Two that start one fork at a time may meet different checkpoints: neither may overwrite what the other chose.
    key = f"origin/step-{manifest.step:012d}.pt"
    with tempfile.TemporaryDirectory(prefix="reco-fork-") as temporary:
        path = Path(temporary) / "encoders.pt"
        torch.save(encoders, path)
        folder.storage.upload(key, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = folder.keep_origin(Origin(url, run_id, manifest.step, manifest.sha256, key, digest))
    _log.info("run %s begins with the encoders of run %s after step %d", folder.run_id, origin.run_id, origin.step)
    return origin


def load_encoders(folder: RunFolder, origin: Origin) -> Encoders:
    """The encoders that a fork begins with, on the CPU.

    Raises:
        CheckpointError: They are not what was copied.
        StorageError: They cannot be read.
    """
    data = folder.storage.read(origin.weights)
    if hashlib.sha256(data).hexdigest() != origin.weights_sha256:
        raise CheckpointError(
            f"{folder.url}/{origin.weights} is not what was copied there from run {origin.run_id}.",
            hint="Fork that run again, under another --run-id.",
        )
    encoders: Encoders = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return encoders


def _check_encoder(folder: RunFolder, other: RunFolder, spec: RunSpec) -> None:
    try:
        theirs = other.spec().encoder_options
    except NotFoundError as error:
        raise UserError(
            f"run {folder.run_id} cannot begin with the weights of {other.url}: there is no run.",
            hint="Give the folder of a run, STORAGE/RUN_ID.",
        ) from error
    ours = spec.encoder_options
    differing = [f"{name} is {ours[name]}, there {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise UserError(
            f"run {folder.run_id} cannot begin with the weights of run {other.run_id}: {'; '.join(differing)}.",
            hint="Fork with the same encoder, or start a run without --weights-from.",
        )


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
