"""A registered encoder as embedding needs it: fetched once, handed to workers as bytes, applied to pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.loading.detail import Detail
from jobs.reco import build_encoder
from jobs.reco.encoders import ResNet, Stem
from jobs.shards.decode import Bytes, Pixels, decode_into, picture_size
from jobs.tracking.encoders import load_encoder_files
from jobs.tracking.errors import DamagedEncoderError
from jobs.tracking.files import CONFIG, PREPROCESSING, WEIGHTS, check_files, read_json
from jobs.tracking.models import fetch_encoder, find_model
from jobs.tracking.server import tracking_uri
from jobs.views import MEAN, STD, Pictures, centre_view

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Preprocessing:
    """What a picture goes through before the encoder.

    Attributes:
        image_size: Side of the view in pixels.
        crop_fraction: Part of the short side that the view shows, above 0 and up to 1.
        mean: Of red, green and blue in 0..1; subtracted.
        std: Of red, green and blue in 0..1; divided by.
    """

    image_size: int
    crop_fraction: float
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Preprocessing:
        """Read what was registered with an encoder.

        Raises:
            DamagedEncoderError: It is something else.
        """
        try:
            size, fraction = int(str(given["image_size"])), float(str(given["crop_fraction"]))
            mean, std = (_three(given.get(name, usual)) for name, usual in (("mean", MEAN), ("std", STD)))
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedEncoderError(
                f"{PREPROCESSING} of the encoder does not say how pictures are prepared ({error}).",
                hint="Fetch the encoder again, or register it anew.",
            ) from error
        return cls(size, fraction, mean, std)

    def as_dict(self) -> dict[str, object]:
        """The same as JSON holds it."""
        return {
            "image_size": self.image_size,
            "crop_fraction": self.crop_fraction,
            "mean": list(self.mean),
            "std": list(self.std),
        }


class Encoder:
    """An encoder on a device, with its preprocessing. May be called from several threads.

    Args:
        module: From float32 (n, 3, S, S) to (n, c).
        preprocessing: Its own.
        device: Where to compute.
    """

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, device: torch.device) -> None:
        self.preprocessing = preprocessing
        self.device = device
        self._module = module.to(device).eval()
        self._detail = Detail.of_centre(preprocessing.image_size, preprocessing.crop_fraction)
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # ten bits: vectors would depend on the size of their batch

    def decode(self, data: Bytes) -> Pixels:
        """Decode a picture, scaled down where its view needs no more, as the probes that judge encoders do.

        Raises:
            PictureError: It cannot be decoded.
        """
        return decode_scaled(data, self._detail)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Pixels]) -> Floats:
        """Features of uint8 [h, w, 3] pictures, float32 [n, c], not normalised."""
        own = self.preprocessing
        views = centre_view(
            Pictures.pack(pictures).to(self.device), image_size=own.image_size, crop_fraction=own.crop_fraction
        )
        features: Tensor = self._module(normalised_anew(views, own))
        return features.float().cpu().numpy()


@dataclass(frozen=True)
class PackedEncoder:
    """An encoder that can be sent to where it is used.

    Attributes:
        reference: `name/version` where it is registered, else its folder.
        config: What rebuilds it.
        preprocessing: What pictures go through before it.
        weights: The safetensors file.
    """

    reference: str
    config: dict[str, object]
    preprocessing: Preprocessing
    weights: bytes

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return str(self.config["sha256"])

    def unpack(self, device: torch.device) -> Encoder:
        """The encoder on a device.

        Raises:
            DamagedEncoderError: Its weights are not those its config speaks of.
        """
        module = rebuild(self.config, safetensors.torch.load(self.weights), name=self.reference)
        return Encoder(_fast(module), self.preprocessing, device)


def pack_encoder(reference: str, home: Path) -> PackedEncoder:
    """Fetch an encoder.

    Args:
        reference: `name`, `name@alias`, `name/version`, or an encoder's folder.
        home: Where a local MLflow server keeps its files.

    Raises:
        TrackingError: There is none, it is damaged, or MLflow does not answer.
    """
    with tempfile.TemporaryDirectory() as temporary:
        uri = ""
        if Path(reference).expanduser().is_dir():
            reference = str(Path(reference).expanduser().absolute())
        else:
            uri = tracking_uri(home)
            reference = find_model(reference, uri).reference  # an alias may move while this one is in use
        folder = fetch_encoder(reference, uri, Path(temporary) / "encoder")
        config = check_files(folder)
        preprocessing = Preprocessing.parse(read_json(folder / PREPROCESSING))
        return PackedEncoder(reference, config, preprocessing, (folder / WEIGHTS).read_bytes())


def load_encoder(folder: Path) -> tuple[nn.Module, Preprocessing]:
    """An encoder in evaluation mode, and its preprocessing, from its files; no pickle is opened.

    Raises:
        DamagedEncoderError: A file is missing or changed, or they do not fit each other.
    """
    state, config, preprocessing = load_encoder_files(folder)
    return _fast(rebuild(config, state, name=folder.name)), Preprocessing.parse(preprocessing)


def rebuild(config: Mapping[str, object], state: Mapping[str, Tensor], *, name: str) -> ResNet:
    """The network that was registered, in evaluation mode: float32 (n, 3, S, S) to float32 (n, c).

    Args:
        config: What the encoder is: `name`, `stem` and `width`.
        state: Its weights.
        name: What messages call it.

    Raises:
        DamagedEncoderError: The config says nothing of the kind, or the weights are of another network.
    """
    try:
        network, stem, width = str(config["name"]), str(config["stem"]), int(str(config["width"]))
        module = build_encoder(network, stem=cast(Stem, stem), width=width)
    except (KeyError, ValueError, RuntimeError) as error:  # PyTorch's of a width that is none
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DamagedEncoderError(
            f"{CONFIG} of {name} does not say what the encoder is ({reason}).",
            hint="Fetch the encoder again. Was it registered by another version of this project?",
        ) from error
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise DamagedEncoderError(
            f"the weights of {name} are not those of a {network} of width {width} with the {stem} stem.",
            hint="Fetch the encoder again.",
        ) from error
    return module.eval()


def normalised_anew(views: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Views [n, 3, S, S] that were normalised by ImageNet's statistics, by those of an encoder instead."""
    if (preprocessing.mean, preprocessing.std) == (MEAN, STD):
        return views
    mean, std, own_mean, own_std = (
        torch.tensor(values, device=views.device).view(1, 3, 1, 1)
        for values in (MEAN, STD, preprocessing.mean, preprocessing.std)
    )
    return (views * std + (mean - own_mean)) / own_std


def decode_scaled(data: Bytes, detail: Detail) -> Pixels:
    """Decode a picture, scaled down by 1, 2, 4 or 8 as far as `detail` allows; uint8 [h, w, 3].

    Raises:
        PictureError: It cannot be decoded.
    """
    kind, height, width = picture_size(data)
    factors, sizes = detail.scaled(np.array([(height, width)], dtype=np.int64))
    pixels = np.empty((*sizes[0].tolist(), 3), np.uint8)
    decode_into(data, kind, pixels, factor=int(factors[0]))
    return pixels


def _fast(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _three(given: object) -> tuple[float, ...]:
    values = tuple(float(str(value)) for value in given) if isinstance(given, list | tuple) else ()
    if len(values) != 3:
        raise ValueError(f"{given} are not three numbers")
    return values
