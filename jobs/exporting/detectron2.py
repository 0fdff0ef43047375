"""The encoder as detectron2's backbone, as the authors of MoCo hand theirs over for detection (He et al., 2020).

Names follow `build_resnet_backbone` of detectron2, which finds them by suffix below any head.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np

from jobs.exporting.encoder import PUBLISHED_WIDTH, Exportable
from jobs.exporting.errors import UnsupportedEncoderError
from jobs.exporting.files import quoted

AUTHOR = "reco"
_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
_BASIC = ("resnet18", "resnet34")
_GREY_LEVELS = 255


def backbone_name(name: str) -> str:
    """Detectron2's name of a parameter: `layer1.0.bn2.weight` is `res2.0.conv2.norm.weight` there."""
    name = re.sub(r"^layer(\d)\.", lambda found: f"res{int(found[1]) + 1}.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    name = name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
    return name if name.startswith("res") else f"stem.{name}"


def check_backbone(encoder: Exportable) -> None:
    """Refuse an encoder that detectron2 has no network for: it would pass over weights of another shape.

    Raises:
        UnsupportedEncoderError: It has another stem, depth or width than detectron2 can build.
    """
    reason = ""
    if encoder.network not in _DEPTHS:
        reason = f"it has no {encoder.network}"
    elif encoder.stem != "imagenet":
        reason = f"its ResNets begin with a 7×7 convolution and a pooling, this one has the {encoder.stem} stem"
    elif encoder.network in _BASIC and encoder.width != PUBLISHED_WIDTH:
        reason = f"its {encoder.network} begins with {PUBLISHED_WIDTH} channels, this one with {encoder.width}"
    if reason:
        raise UnsupportedEncoderError(
            f"detectron2 cannot use {encoder.reference}: {reason}.",
            hint="Export it as safetensors, or train a resnet50 with the imagenet stem for detection.",
        )


def write_backbone(encoder: Exportable, path: Path) -> None:
    """Write the pickle that detectron2's checkpointer reads: arrays by name, an author, and how names are matched.

    Raises:
        UnsupportedEncoderError: As `check_backbone`.
    """
    check_backbone(encoder)
    arrays = {backbone_name(name): value.numpy() for name, value in encoder.module.state_dict().items()}
    buffer = BytesIO()
    _Pickler(buffer, protocol=4).dump({"model": arrays, "__author__": AUTHOR, "matching_heuristics": True})
    path.write_bytes(buffer.getvalue())


def load_backbone(encoder: Exportable, path: Path) -> str:
    """What a config of detectron2 needs to use the exported backbone, in YAML."""
    own = encoder.preprocessing
    resnets = {"DEPTH": str(_DEPTHS[encoder.network]), "STRIDE_IN_1X1": "False", "NORM": "SyncBN"}
    if encoder.network in _BASIC:
        resnets["RES2_OUT_CHANNELS"] = str(PUBLISHED_WIDTH)
    elif encoder.width != PUBLISHED_WIDTH:
        resnets |= {
            "STEM_OUT_CHANNELS": str(encoder.width),
            "WIDTH_PER_GROUP": str(encoder.width),
            "RES2_OUT_CHANNELS": str(4 * encoder.width),
        }
    return "\n".join(
        [
            "MODEL:",
            f"  WEIGHTS: {quoted(path)}",
            f"  PIXEL_MEAN: {_levels(own.mean)}",
            f"  PIXEL_STD: {_levels(own.std)}",
            "  BACKBONE: {FREEZE_AT: 0}",
            f"  RESNETS: {{{', '.join(f'{key}: {value}' for key, value in resnets.items())}}}",
            "INPUT: {FORMAT: RGB}",
        ]
    )


class _Pickler(pickle.Pickler):
    """Writes arrays as calls of `numpy.ndarray` alone.

    NumPy's own way names `numpy._core`, which NumPy before 1.26 does not have, and detectron2 is often installed with
    one of those.
    """

    def reducer_override(self, value: object) -> tuple[Callable[..., object], tuple[object, ...]]:
        if not isinstance(value, np.ndarray):
            return NotImplemented  # type: ignore[no-any-return]  # "as you always do"
        # A bytearray: arrays over bytes are read-only, and torch warns about each.
        return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))


def _levels(values: tuple[float, ...]) -> list[float]:
    return [round(_GREY_LEVELS * value, 3) for value in values]
