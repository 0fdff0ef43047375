"""Crop, resize and flip against Pillow's `crop(box).resize(size, BILINEAR)`."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.views.crop import crop_resize_flip
from jobs.views.parameters import CropParameters
from jobs.views.pictures import Pictures


def pillow(picture: np.ndarray, box: tuple[int, int, int, int], size: int, flip: bool) -> np.ndarray:
    top, left, height, width = box
    image = Image.fromarray(picture).crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)


def crops_of(boxes: list[tuple[int, int, int, int]], flips: list[bool]) -> CropParameters:
    top, left, height, width = np.array(boxes, dtype=np.int64).T
    return CropParameters(top, left, height, width, np.array(flips))


def packed(pictures: torch.Tensor) -> Pictures:
    return Pictures.pack(list(pictures.numpy()))


def levels(planes: torch.Tensor) -> np.ndarray:
    return planes.permute(1, 2, 3, 0).round().numpy().astype(int)


@st.composite
def cases(draw: st.DrawFn):
    size = draw(st.sampled_from([1, 7, 16, 32, 37, 64, 96, 224]))
    count = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    true_sizes = random.integers(1, draw(st.sampled_from([2, 12, 64, 300])) + 1, (count, 2))
    # What lies around a picture is its neighbours' noise: were any of it used, the result would be far off.
    pictures = [random.integers(0, 256, (*side, 3), dtype=np.uint8) for side in true_sizes]
    sources = random.integers(0, count, count + 2)
    boxes = []
    for height, width in true_sizes[sources]:
        rows, columns = random.integers(1, height + 1), random.integers(1, width + 1)
        boxes.append((random.integers(height - rows + 1), random.integers(width - columns + 1), rows, columns))
    flips = random.random(count + 2) < 0.5
    return size, pictures, sources, boxes, flips


@settings(max_examples=120, deadline=None)
@given(case=cases())
def test_any_box_of_a_batch_is_within_one_level_of_pillow(case) -> None:
    size, pictures, sources, boxes, flips = case
    made = levels(crop_resize_flip(Pictures.pack(pictures), sources, crops_of(boxes, flips), size))
    for view, source in enumerate(sources):
        expected = pillow(pictures[source], boxes[view], size, flips[view])
        assert np.abs(made[view] - expected).max() <= 1


def test_the_whole_picture_at_its_own_size_comes_back_unchanged_and_flipped() -> None:
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = crop_resize_flip(packed(pictures), np.arange(2), crops_of([(0, 0, 64, 64)] * 2, [False, True]), 64)
    assert torch.equal(made[:, 0], pictures[0].permute(2, 0, 1).float())
    assert torch.equal(made[:, 1], pictures[1].flip(1).permute(2, 0, 1).float())


def test_a_box_of_one_pixel_fills_the_view_with_its_colour() -> None:
    pictures = torch.arange(5 * 6 * 3, dtype=torch.uint8).reshape(1, 5, 6, 3)
    made = crop_resize_flip(packed(pictures), np.arange(1), crops_of([(3, 2, 1, 1)], [False]), 48)
    assert torch.equal(made, pictures[0, 3, 2].float().view(3, 1, 1, 1).expand(3, 1, 48, 48))


def test_a_thin_line_is_averaged_and_not_skipped_when_shrunk() -> None:
    pictures = torch.zeros(1, 320, 320, 3, dtype=torch.uint8)
    pictures[:, :, ::10] = 255
    made = crop_resize_flip(packed(pictures), np.arange(1), crops_of([(0, 0, 320, 320)], [False]), 32)
    # Without antialiasing every pixel would be 0 or 255; at the border half of the triangle is missing.
    assert (made[..., 1:-1] - 25.5).abs().max() < 0.01
