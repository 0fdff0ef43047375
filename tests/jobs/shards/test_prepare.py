"""Pictures are changed only where that was asked for, and without loss only to the very same pixels."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from jobs.errors import UserError
from jobs.shards import prepare as module
from jobs.shards.decode import decode
from jobs.shards.prepare import Changes, Prepared, Unreadable, check_changes, is_progressive, prepare, to_baseline
from jobs.storage import AccessDeniedError, NotFoundError
from tests.jobs.shards.made import bomb, picture


class One:
    """A source of one picture, or of the error that reading it raises."""

    def __init__(self, data: bytes | Exception) -> None:
        self._data = data

    def name(self, number: int) -> str:
        return f"picture {number}"

    def read(self, number: int) -> bytes:
        if isinstance(self._data, Exception):
            raise self._data
        return self._data


def smooth(height: int, width: int) -> Image.Image:
    """A picture with gradients and edges, so that every coefficient is used."""
    rng = np.random.default_rng(1)
    cells = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return Image.fromarray(np.kron(cells, np.ones((8, 8, 1), np.uint8))[:height, :width])


def jpeg(made: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    made.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


OPTIONS: list[dict[str, object]] = [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"quality": 30},
    {"restart_marker_rows": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_progressive_becomes_baseline_with_the_same_pixels(mode: str, options: dict[str, object]) -> None:
    data = jpeg(smooth(123, 250).convert(mode), progressive=True, **options)
    assert is_progressive(data)
    made = prepare(One(data), 0, Changes(optimise=True))
    assert isinstance(made, Prepared)
    assert made.optimised
    assert not is_progressive(made.data)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.data))), np.asarray(Image.open(io.BytesIO(data))))
    if mode != "CMYK":
        assert np.array_equal(simplejpeg.decode_jpeg(made.data, "RGB"), simplejpeg.decode_jpeg(data, "RGB"))


def test_what_a_jpeg_says_about_itself_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = jpeg(smooth(60, 80), progressive=True, exif=exif, icc_profile=profile)
    made = to_baseline(data)
    assert made is not None
    after = Image.open(io.BytesIO(made))
    assert after.getexif()[0x0112] == 6
    assert after.info["icc_profile"] == profile


def test_baseline_png_and_what_was_not_asked_for_stay_byte_for_byte() -> None:
    progressive, baseline = jpeg(smooth(60, 80), progressive=True), jpeg(smooth(60, 80))
    for data, changes, kind in (
        (progressive, Changes(), "jpeg"),
        (progressive, Changes(max_side=80), "jpeg"),
        (baseline, Changes(optimise=True), "jpeg"),
        (picture(1, kind="PNG"), Changes(optimise=True, max_side=8), "png"),
        (picture(1, kind="WEBP"), Changes(optimise=True), "webp"),
    ):
        assert prepare(One(data), 0, changes) == Prepared(data, kind)
    assert not is_progressive(baseline)


@pytest.mark.parametrize("made", [None, b"no picture", jpeg(smooth(60, 81)), jpeg(smooth(60, 80), quality=89)])
def test_a_transform_that_fails_or_changes_a_pixel_is_not_used(
    made: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(smooth(60, 80), progressive=True)
    monkeypatch.setattr(module, "to_baseline", lambda _: made)
    assert prepare(One(data), 0, Changes(optimise=True)) == Prepared(data, "jpeg")


def test_only_larger_pictures_are_made_smaller() -> None:
    for kind in ("JPEG", "PNG"):
        data = picture(3, height=60, width=120, kind=kind)
        made = prepare(One(data), 0, Changes(max_side=50))
        assert isinstance(made, Prepared)
        assert (made.kind, made.resized, made.optimised) == ("jpeg", True, False)
        assert decode(made.data).shape == (25, 50, 3)
    plain = Image.new("RGB", (300, 10), (200, 100, 50))
    made = prepare(One(jpeg(plain)), 0, Changes(max_side=30))
    assert isinstance(made, Prepared)
    assert decode(made.data).shape == (1, 30, 3)
    assert np.abs(decode(made.data).astype(int) - (200, 100, 50)).max() <= 3


def test_what_cannot_be_read_is_a_finding_and_what_the_storage_refuses_an_error() -> None:
    for given, reason in (
        (b"", "no bytes at all"),
        (b"<html>", "neither JPEG, PNG nor WebP"),
        (bomb("JPEG"), "declares 60000×60000 pixels, more than 178,956,970"),
        (NotFoundError("gone"), "there is no such file"),
    ):
        assert prepare(One(given), 7, Changes()) == Unreadable(7, "picture 7", reason)
    cut = prepare(One(picture(1, height=64, width=64)[:900]), 0, Changes())
    assert isinstance(cut, Unreadable)
    assert cut.reason.startswith("cannot be decoded")
    with pytest.raises(AccessDeniedError):
        prepare(One(AccessDeniedError("no")), 0, Changes())


def test_changes_that_cannot_be_made_are_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="side of 0 pixels"):
        check_changes(Changes(max_side=0))
    check_changes(Changes(optimise=True))
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(UserError, match="needs the package jpeglib") as caught:
        check_changes(Changes(optimise=True))
    assert "requirements.txt" in (caught.value.hint or "")
