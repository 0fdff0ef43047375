"""Encoded pictures to pixels: as Pillow has them, and an error for everything else."""

from __future__ import annotations

import io
from pathlib import Path

import jpeglib
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from jobs.shards.decode import PictureError, decode, decode_into, picture_size
from tests.jobs.shards.made import picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colours(mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:24, 0:40]
    pixels = np.stack([rows * 10, columns * 6, (rows + columns) * 4], axis=2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 75}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 80}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_equal_pillows(kind: str, options: dict[str, object], mode: str) -> None:
    data = encoded(colours(mode), kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert decode(data).shape == (24, 40, 3)
    assert (decode(data) == expected).all()
    assert picture_size(data) == (kind.lower(), 24, 40)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "1")])
def test_other_colour_modes_become_rgb(kind: str, mode: str) -> None:
    data = encoded(colours(mode), kind)
    assert (decode(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_transparent_pixels_are_laid_over_black() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., :3] = (200, 100, 50)
    pixels[..., 3] = [[255, 128], [0, 255]]
    result = decode(encoded(Image.fromarray(pixels), "PNG"))
    assert result[0, 0].tolist() == [200, 100, 50]
    assert result[0, 1].tolist() == [100, 50, 25]
    assert result[1, 0].tolist() == [0, 0, 0]
    palette = Image.fromarray(pixels[..., :3]).convert("P")
    assert (decode(encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))) == 0).all()


def test_sixteen_bits_keep_the_upper_eight() -> None:
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(deep), "PNG"))[..., 0].tolist() == [[0, 0, 1], [128, 255, 255]]


def test_the_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode(encoded(colours(), "JPEG", exif=exif)).shape == (24, 40, 3)


def test_a_subsampling_that_simplejpeg_has_no_name_for_is_pillows_to_read(tmp_path: Path) -> None:
    colours().save(tmp_path / "plain.jpg", subsampling=0)
    jpeg = jpeglib.read_spatial(str(tmp_path / "plain.jpg"))
    jpeg.samp_factor = [[4, 1], [1, 1], [1, 1]]  # 4:4:1
    jpeg.write_spatial(str(tmp_path / "tall.jpg"))
    data = (tmp_path / "tall.jpg").read_bytes()
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(data)
    assert picture_size(data) == ("jpeg", 24, 40)
    assert (decode(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_picture_is_an_error(kind: str) -> None:
    data = picture(0, height=64, width=64, kind=kind)
    with pytest.raises(PictureError):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(20), b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"not a picture"])
def test_what_is_no_picture_is_an_error(data: bytes) -> None:
    with pytest.raises(PictureError):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_decoded_into_the_corner_of_a_larger_array(kind: str) -> None:
    data = encoded(colours(), kind)
    canvas = np.zeros((30, 50, 3), np.uint8)
    decode_into(data, kind.lower(), canvas[:24, :40])
    assert (canvas[:24, :40] == decode(data)).all()
    assert not canvas[24:].any()
    assert not canvas[:, 40:].any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(24, 39, 3), (12, 80, 3), (30, 40, 3)])
def test_another_size_than_expected_is_an_error(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="40×24 where"):
        decode_into(encoded(colours(), kind), kind.lower(), np.zeros(shape, np.uint8))
