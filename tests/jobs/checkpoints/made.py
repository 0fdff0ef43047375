"""Checkpoints made in this process, for tests that look at what is stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints.fence import Fence
from jobs.checkpoints.manifest import Manifest
from jobs.checkpoints.publish import Draft, publish
from jobs.run_folder import RunFolder


def save(
    folder: RunFolder,
    state: dict[str, Any],
    *,
    step: int,
    keep: int = 3,
    fence: Fence | None = None,
    spec_hash: str = "s",
    dataset_hash: str = "d",
) -> Manifest:
    descriptor = os.memfd_create("state")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            torch.save(state, file)
        draft = Draft(folder, step, spec_hash, dataset_hash, keep=keep, fence=fence)
        return publish(draft, descriptor)
    finally:
        os.close(descriptor)


def run_folder(path: Path) -> RunFolder:
    return RunFolder(str(path.parent), path.name)
