"""Makes one picture ready to be packed: read, decoded once to the end, and changed only where that was asked for."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from jobs.errors import UserError
from jobs.shards.decode import PictureError, Pixels, decode, picture_format
from jobs.shards.errors import DamagedSampleError
from jobs.storage import NotFoundError

_QUALITY = 90
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_LIBRARY = "turbo210"  # of those in jpeglib: libjpeg-turbo, as in simplejpeg and Pillow


class Readable(Protocol):
    """Pictures by number."""

    def name(self, number: int) -> str:
        """What to call a picture in a message."""

    def read(self, number: int) -> bytes:
        """Its encoded bytes."""


class Unreadable(NamedTuple):
    """A picture that cannot be packed, and why."""

    number: int
    name: str
    reason: str


class Prepared(NamedTuple):
    """A picture that can be packed.

    Attributes:
        data: Encoded.
        kind: jpeg, png or webp.
        optimised: Whether it was progressive, and is baseline now.
        resized: Whether it was larger than allowed.
    """

    data: bytes
    kind: str
    optimised: bool = False
    resized: bool = False


@dataclass(frozen=True)
class Changes:
    """What may be done to pictures.

    Attributes:
        optimise: Turn progressive JPEG into baseline, which decodes twice as fast, to the same pixels.
        max_side: Encode pictures with a longer side anew, as JPEG of quality 90, at this many pixels; None for never.
    """

    optimise: bool = False
    max_side: int | None = None


def prepare(source: Readable, number: int, changes: Changes) -> Prepared | Unreadable:
    """Read and check one picture.

    Raises:
        StorageError: The storage cannot be read; that a file is gone, or a picture damaged, is no error but a finding.
    """
    try:
        data = source.read(number)
        pixels = decode(data)
        kind = picture_format(data)
        if kind is None:
            raise PictureError("neither JPEG, PNG nor WebP")
    except NotFoundError:
        return Unreadable(number, source.name(number), "there is no such file")
    except DamagedSampleError as error:
        return Unreadable(number, source.name(number), error.reason)
    except PictureError as error:
        return Unreadable(number, source.name(number), error.message)
    if changes.max_side is not None and max(pixels.shape[:2]) > changes.max_side:
        return Prepared(_resized(pixels, changes.max_side), "jpeg", resized=True)
    if changes.optimise and kind == "jpeg" and is_progressive(data):
        baseline = to_baseline(data)
        with contextlib.suppress(PictureError):
            # Whatever the transform did, only the same pixels are taken for the same picture.
            if baseline is not None and np.array_equal(decode(baseline), pixels):
                return Prepared(baseline, kind, optimised=True)
    return Prepared(data, kind)


def is_progressive(data: bytes) -> bool:
    """Whether a JPEG's frame is progressive; False where no frame is found."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            return marker in _PROGRESSIVE
        if marker == 0xFF:  # padding
            place += 1
        elif marker in _ALONE:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def to_baseline(data: bytes) -> bytes | None:
    """Write a JPEG's coefficients again in one scan, with Huffman tables of their own; markers (EXIF, ICC) are kept.

    Returns:
        The baseline JPEG; None where the library cannot read or write this one.
    """
    import jpeglib  # dozens of libraries that only this needs

    with tempfile.TemporaryDirectory(prefix="reco-jpeg-") as folder:
        given, made = Path(folder) / "given.jpg", Path(folder) / "made.jpg"
        given.write_bytes(data)
        try:
            jpeglib.read_dct(str(given)).write_dct(str(made), flags=["+OPTIMIZE_CODING"])
            return made.read_bytes()
        except (OSError, ValueError):
            return None


def check_changes(changes: Changes) -> None:
    """Refuse what cannot be done, before any work.

    Raises:
        UserError: A side below one pixel, or the library for lossless changes is missing.
    """
    if changes.max_side is not None and changes.max_side < 1:
        raise UserError(f"No picture has a side of {changes.max_side} pixels.", hint="Give --max-side from 1.")
    if changes.optimise:
        try:
            import jpeglib
        except ImportError as error:
            raise UserError(
                f"--lossless-optimise needs the package jpeglib ({error}).", hint="pip install -r requirements.txt"
            ) from error
        jpeglib.version.set(_LIBRARY)


def _resized(pixels: Pixels, side: int) -> bytes:
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
