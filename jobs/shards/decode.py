"""Encoded pictures to uint8 RGB: JPEG, PNG and WebP."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from jobs.errors import RecoError

Pixels = NDArray[np.uint8]
Bytes = bytes | bytearray | memoryview | Pixels

MOST_PIXELS = 178_956_970
"""A picture that declares more (Pillow's own limit) is taken for a bomb: it would unpack to half a gigabyte."""

# Pillow's two limits give way to the one above, which holds for every format and does not warn at half of it.
Image.MAX_IMAGE_PIXELS = None

_CMYK = ("CMYK", "YCCK")
_SIMPLEJPEG_ERRORS = (ValueError, KeyError)  # the second for a chroma subsampling it has no name for, such as 4:4:1
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, IndexError, EOFError)


class PictureError(RecoError):
    """These bytes are no picture that can be read."""


def picture_format(data: Bytes) -> str | None:
    """Which of jpeg, png and webp the first bytes announce, whatever the file is called."""
    head = bytes(data[:12])
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"RIFF") and head[8:] == b"WEBP":
        return "webp"
    return None


def picture_size(data: Bytes) -> tuple[str, int, int]:
    """Format (of `records.FORMATS`), height and width from a picture's header, without decoding it.

    Raises:
        PictureError: No header of a JPEG, PNG or WebP, or one that declares more than `MOST_PIXELS`.
    """
    kind = picture_format(data)
    if kind is None:
        raise PictureError("neither JPEG, PNG nor WebP" if len(data) else "no bytes at all")
    if kind == "jpeg":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except _SIMPLEJPEG_ERRORS:
            pass  # simplejpeg is strict; Pillow has the last word below
        else:
            _refuse_bomb(height, width)
            return "jpeg-cmyk" if colours in _CMYK else "jpeg", int(height), int(width)
    with _open(data) as picture:
        return "jpeg-cmyk" if picture.mode == "CMYK" else kind, picture.height, picture.width


def decode(data: Bytes) -> Pixels:
    """Decode one picture.

    JPEG goes through libjpeg-turbo with its accurate transform, as in Pillow, so both give the same pixels. Greyscale,
    palette and CMYK become RGB; 16-bit channels keep their upper 8 bits; transparent pixels are laid over black, so
    that colours nobody was meant to see stay unseen. The EXIF orientation is not applied: shards hold pixels as stored.
    Of an animation the first picture is taken.

    Args:
        data: The encoded picture.

    Returns:
        uint8[h, w, 3].

    Raises:
        PictureError: The bytes are no JPEG, PNG or WebP, or are cut or damaged.
    """
    kind, height, width = picture_size(data)
    pixels = np.empty((height, width, 3), np.uint8)
    _decode(data, kind, pixels)
    return pixels


def decode_into(data: Bytes, kind: str, out: Pixels, *, factor: int = 1) -> None:
    """Decode a picture of known format and size into uint8[h, w, 3], contiguous.

    Args:
        data: The encoded picture.
        kind: One of `records.FORMATS`.
        out: Where the pixels go, of the picture's size, or ⌈size / factor⌉.
        factor: 2, 4 or 8 scale it down; a JPEG then needs only part of its transform.

    Raises:
        PictureError: As in `decode`, or the picture has another size.
    """
    _decode(data, kind, out, factor)


def _decode(data: Bytes, kind: str, out: Pixels, factor: int = 1) -> None:
    if kind == "jpeg":
        try:
            # The smallest of 1, 1/2, 1/4 and 1/8 that is not below these is what it takes: exactly ours.
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=out.shape[0], min_width=out.shape[1], buffer=out)
        except _SIMPLEJPEG_ERRORS:
            # Strict mode takes warnings for errors, also where the picture is whole. The bytes have passed their
            # checksum, so what Pillow reads to the end is what was packed.
            pixels = None
        if pixels is not None:
            if pixels.shape != out.shape:
                raise _wrong_size(pixels.shape, out)
            return
    with _open(data) as picture:
        if (-(-picture.height // factor), -(-picture.width // factor)) != out.shape[:2]:
            raise _wrong_size((picture.height, picture.width), out)
        try:
            pixels = _to_rgb(picture)
            out[:] = pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))
        except _PILLOW_ERRORS as error:
            raise PictureError(f"cannot be decoded ({error})") from error


def _wrong_size(found: tuple[int, ...], out: Pixels) -> PictureError:
    return PictureError(f"{found[1]}×{found[0]} where {out.shape[1]}×{out.shape[0]} was expected")


def _open(data: Bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(bytes(data)), formats=("JPEG", "PNG", "WEBP"))
    except _PILLOW_ERRORS as error:
        raise PictureError("its header cannot be read") from error
    _refuse_bomb(picture.height, picture.width)
    return picture


def _refuse_bomb(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise PictureError(f"declares {width}×{height} pixels, more than {MOST_PIXELS:,}")


def _to_rgb(picture: Image.Image) -> Pixels:
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        grey = (np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, rgba).convert("RGB"))
    return np.asarray(picture.convert("RGB"))
