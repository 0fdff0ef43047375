"""Blur against a slow float64 Gaussian, and its distance from Pillow's box approximation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from jobs.views.blur import blur_


def gaussian(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Convolves float64 [h, w] with a Gaussian reaching 20 pixels, borders repeated."""
    offsets = np.arange(-20, 21)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    padded = np.pad(plane, 20, mode="edge")
    rows = sum(tap * padded[20 + k : 20 + k + plane.shape[0]] for tap, k in zip(taps, offsets, strict=True))
    return sum(tap * rows[:, 20 + k : 20 + k + plane.shape[1]] for tap, k in zip(taps, offsets, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (40, 33)])
def test_each_sample_is_blurred_with_its_own_sigma(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    planes = random.integers(0, 256, (3, 5, *size)).astype(np.float64)
    sigmas = np.array([0.0, 0.1, 0.7, 1.3, 2.0])
    made = blur_(torch.from_numpy(planes).float(), sigmas).numpy()
    assert np.array_equal(made[:, 0], planes[:, 0])
    for sample in range(1, 5):
        for channel in range(3):
            expected = gaussian(planes[channel, sample], sigmas[sample])
            np.testing.assert_allclose(made[channel, sample], expected, atol=0.03)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5, 2.0])
def test_smooth_pictures_are_close_to_pillows_approximation(sigma: float) -> None:
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = coarse.resize((64, 64), Image.Resampling.BICUBIC)
    planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(1).float()
    made = blur_(planes, np.array([sigma]))[:, 0].permute(1, 2, 0).numpy()
    expected = np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma))).astype(float)
    assert np.abs(made - expected).max() <= 3.0
    assert np.abs(made - expected).mean() <= 0.8


def test_a_batch_without_blur_is_left_untouched() -> None:
    planes = torch.rand(3, 2, 8, 8)
    before = planes.clone()
    assert torch.equal(blur_(planes, np.zeros(2)), before)
