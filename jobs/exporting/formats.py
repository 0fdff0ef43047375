"""The names of the formats an encoder can be exported in; free of torch, for the command line."""

from __future__ import annotations

import difflib
from enum import StrEnum

from jobs.errors import UserError


class Format(StrEnum):
    """A format, by the name that `--format` takes."""

    SAFETENSORS = "safetensors"
    PT2 = "pt2"
    ONNX = "onnx"
    DETECTRON2 = "detectron2"

    @property
    def suffix(self) -> str:
        """What its files end in, by which the programs that read them know them."""
        return ".pkl" if self is Format.DETECTRON2 else f".{self.value}"


CHOICES = "|".join(Format)

_OTHER_NAMES = {
    "torchvision": Format.SAFETENSORS,
    "timm": Format.SAFETENSORS,
    "torch": Format.SAFETENSORS,
    "torch.export": Format.PT2,
    "pkl": Format.DETECTRON2,
    "d2": Format.DETECTRON2,
}


def parse_format(name: str) -> Format:
    """Return the format of this name.

    Raises:
        UserError: There is none; the hint names the one that was probably meant.
    """
    try:
        return Format(name.lower())
    except ValueError:
        near = difflib.get_close_matches(name.lower(), Format, n=1)
        meant = _OTHER_NAMES.get(name.lower()) or (Format(near[0]) if near else None)
        raise UserError(
            f"there is no format {name!r}.",
            hint=f"Give --format {meant}, which is what you probably mean." if meant else f"Give one of {CHOICES}.",
        ) from None
