"""A registered encoder on its way out: fetched, rebuilt, and compared with what it computed when it was registered."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from jobs.embedding.encoder import Preprocessing, rebuild
from jobs.reco.encoders import Stem
from jobs.tracking.encoders import load_encoder_files
from jobs.tracking.errors import DamagedEncoderError
from jobs.tracking.export import TOLERANCE
from jobs.tracking.files import REFERENCE, WEIGHTS
from jobs.tracking.models import fetch_encoder, find_model
from jobs.tracking.reference import deviation
from jobs.tracking.server import tracking_uri

PUBLISHED_WIDTH = 64
"""Channels of the first stage in the published networks."""


@dataclass(frozen=True)
class Exportable:
    """An encoder to be exported.

    Attributes:
        model: Registered model, or the name of the folder it comes from.
        version: Its version; None from a folder.
        network: resnet10, resnet18, and so on.
        stem: `imagenet` or `cifar`.
        width: Channels of the first stage.
        feature_dim: Length D of the features.
        sha256: Of the weights, as registered.
        preprocessing: What a picture goes through first; its `image_size` is S.
        weights: The safetensors file.
        module: On the CPU, in evaluation mode: float32 [n, 3, S, S] to float32 [n, D].
    """

    model: str
    version: int | None
    network: str
    stem: Stem
    width: int
    feature_dim: int
    sha256: str
    preprocessing: Preprocessing
    weights: Path
    module: nn.Module

    @property
    def reference(self) -> str:
        """`name/version`, or the name alone where it comes from a folder."""
        return self.model if self.version is None else f"{self.model}/{self.version}"

    def description(self) -> dict[str, object]:
        """What it is, as JSON holds it."""
        return {
            "name": self.model,
            "version": self.version,
            "encoder": {
                "name": self.network,
                "stem": self.stem,
                "width": self.width,
                "feature_dim": self.feature_dim,
                "sha256": self.sha256,
            },
            "preprocessing": self.preprocessing.as_dict(),
        }


@contextmanager
def open_encoder(reference: str, home: Path) -> Iterator[Exportable]:
    """Fetch an encoder and rebuild it; its files are gone when the context ends.

    Args:
        reference: `name`, `name@alias`, `name/version`, or a folder with an encoder.
        home: Where a local MLflow server keeps its files; not looked at for a folder.

    Raises:
        UnknownModelError: There is no such encoder.
        DamagedEncoderError: Its files are not what was registered, or it computes something else than it did then.
        TrackingError: The server did not answer or refused.
    """
    local = Path(reference).expanduser()
    with tempfile.TemporaryDirectory(prefix="reco-export-") as temporary:
        if local.is_dir() or reference.startswith((".", "~", "/")):
            folder = fetch_encoder(reference, "", Path(temporary) / "unused")
            model, number = folder.resolve().name, None
        else:
            uri = tracking_uri(home)
            found = find_model(reference, uri)
            # By its number: an alias may move between the two requests.
            folder = fetch_encoder(found.reference, uri, Path(temporary) / "encoder")
            model, number = found.name, found.version
        yield _rebuilt(folder, model, number)


def _rebuilt(folder: Path, model: str, version: int | None) -> Exportable:
    state, config, preprocessing = load_encoder_files(folder)
    module = rebuild(config, state, name=model).requires_grad_(False)
    # Encoders registered before there was such a file have nothing to be compared with.
    if (folder / REFERENCE).is_file():
        difference = deviation(module, folder)
        if not difference <= TOLERANCE:  # This way round, NaN fails.
            raise DamagedEncoderError(
                f"{model} computes other features than when it was registered, by {difference:.2g} "
                f"(allowed: {TOLERANCE:g}).",
                hint="Fetch the encoder again, or register it anew.",
            )
    return Exportable(
        model=model,
        version=version,
        network=str(config["name"]),
        stem=cast(Stem, config["stem"]),
        width=int(str(config["width"])),
        feature_dim=module.feature_dim,
        sha256=str(config["sha256"]),
        preprocessing=Preprocessing.parse(preprocessing),
        weights=folder / WEIGHTS,
        module=module,
    )
