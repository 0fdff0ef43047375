"""What an encoder made of some inputs when it was registered, so that anybody can see whether it still does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jobs.tracking.errors import DamagedEncoderError
from jobs.tracking.files import REFERENCE

_PICTURES = 3


def write_reference(module: torch.nn.Module, folder: Path, *, size: int) -> None:
    """Keep a few inputs with the features that the encoder has for them.

    Args:
        module: Encoder on the CPU, in evaluation mode: float32 [n, 3, size, size] to float32 [n, d].
        folder: Where the file goes.
        size: Side of the pictures.
    """
    pictures = torch.randn(_PICTURES, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = module(pictures).contiguous()
    save_file({"pictures": pictures, "features": features}, folder / REFERENCE)


def deviation(encoder: Callable[[Tensor], Tensor], folder: Path) -> float:
    """Largest difference between what an encoder computes now and what it did when it was registered.

    Args:
        encoder: As in `write_reference`.
        folder: With the encoder's files.

    Raises:
        DamagedEncoderError: The file is missing or unreadable, or the encoder takes other inputs.
    """
    path = folder / REFERENCE
    try:
        kept = load_file(path)
        with torch.inference_mode():
            features = encoder(kept["pictures"])
        if features.shape != kept["features"].shape:
            raise DamagedEncoderError(
                f"the encoder makes features of shape {tuple(features.shape)}; "
                f"it made {tuple(kept['features'].shape)} when it was registered."
            )
        return float((features - kept["features"]).abs().max())
    except (SafetensorError, OSError, KeyError) as cause:
        raise DamagedEncoderError(
            f"{path} cannot be read: {cause}.", hint="Fetch the encoder again, or register it anew."
        ) from cause
