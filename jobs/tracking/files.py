"""The plain files of an encoder, and the check that they are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from jobs.tracking.errors import DamagedEncoderError

WEIGHTS = "encoder.safetensors"
CONFIG = "encoder.json"
PREPROCESSING = "preprocessing.json"
SPEC = "spec.yaml"
CARD = "card.md"
REFERENCE = "reference.safetensors"
"""Some inputs of the encoder, and what it made of them when it was registered."""
FILES = (WEIGHTS, CONFIG, PREPROCESSING, SPEC, CARD, REFERENCE)


def check_files(folder: Path) -> dict[str, object]:
    """Check an encoder's folder against its own manifest; return the config.

    Raises:
        DamagedEncoderError: A file is missing, or the weights are not those the config was written for.
    """
    for name in (CONFIG, PREPROCESSING, WEIGHTS):
        if not (folder / name).is_file():
            raise DamagedEncoderError(f"{folder / name} is missing.", hint="Fetch the encoder again.")
    config = read_json(folder / CONFIG)
    if sha256(folder / WEIGHTS) != config.get("sha256"):
        raise DamagedEncoderError(
            f"{folder / WEIGHTS} is not the file that was registered: its SHA-256 differs.",
            hint="It was cut off or changed; fetch the encoder again.",
        )
    return config


def read_json(path: Path) -> dict[str, object]:
    """Return a JSON object from a file.

    Raises:
        DamagedEncoderError: It cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise DamagedEncoderError(f"{path} cannot be read: {cause}.", hint="Fetch the encoder again.") from cause
    if not isinstance(content, dict):
        raise DamagedEncoderError(f"{path} holds no JSON object.", hint="Fetch the encoder again.")
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
