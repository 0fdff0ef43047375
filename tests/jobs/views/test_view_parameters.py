"""The draws: torchvision's rule for crops, the stated ranges, and randomness that belongs to the sample alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.views.parameters import (
    HUE,
    ORDERS,
    RATIO,
    SIGMA,
    draw_colors,
    draw_crops,
    draw_sigmas,
    sample_keys,
    uniforms,
)

MANY = 40_000


def keys(count: int, *, seed: int = 0, epoch: int = 0, view: int = 0) -> np.ndarray:
    return sample_keys(seed=seed, epoch=epoch, sample_ids=np.arange(count), view=view)


def colors(count: int, **changes: float):
    strengths = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.3, "saturation": 1.5, "hue": 0.1, "greyscale": 0.2}
    return draw_colors(keys(count), **(strengths | changes))


def test_uniforms_match_the_published_splitmix64_stream() -> None:
    # The first outputs of SplitMix64 seeded with 1234567, from its authors' reference program.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = uniforms(np.array([1234567], dtype=np.uint64), range(3))[0]
    np.testing.assert_allclose(drawn, [word / 2**64 for word in published], atol=2**-52)


def test_uniforms_fill_the_unit_interval_evenly_and_independently() -> None:
    drawn = uniforms(keys(MANY), range(32))
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.01)
    counts = np.stack([np.histogram(column, bins=10, range=(0, 1))[0] for column in drawn.T])
    np.testing.assert_allclose(counts / MANY, 0.1, atol=0.01)
    correlation = np.corrcoef(drawn, rowvar=False) - np.eye(32)
    assert np.abs(correlation).max() < 0.03
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03


def test_a_key_belongs_to_its_sample_and_not_to_the_batch() -> None:
    ids = np.array([7, 123_456_789_012, 0, 7])
    together = sample_keys(seed=3, epoch=4, sample_ids=ids, view=1)
    alone = [sample_keys(seed=3, epoch=4, sample_ids=ids[[i]], view=1)[0] for i in range(4)]
    assert together.tolist() == alone
    assert together[0] == together[3]


def test_each_coordinate_changes_the_key() -> None:
    coordinates = [(s, e, v, i) for s in range(4) for e in range(4) for v in range(4) for i in range(50)]
    drawn = {int(sample_keys(seed=s, epoch=e, sample_ids=np.array([i]), view=v)[0]) for s, e, v, i in coordinates}
    assert len(drawn) == len(coordinates)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    low=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**63),
)
def test_crops_lie_inside_the_picture_within_the_area_and_ratio(height: int, width: int, low: float, seed: int) -> None:
    sizes = np.tile([[height, width]], (200, 1))
    crops = draw_crops(keys(200, seed=seed), sizes, scale=(low, 1.0), flip=0.5)
    assert crops.top.min() >= 0
    assert crops.left.min() >= 0
    assert min(crops.height.min(), crops.width.min()) >= 1
    assert (crops.top + crops.height).max() <= height
    assert (crops.left + crops.width).max() <= width
    # Rounding each side to whole pixels is worth half a pixel; the central fallback may fall below the smallest area.
    ratio_low = (crops.width + 0.5) / (crops.height - 0.5)
    ratio_high = (crops.width - 0.5) / (crops.height + 0.5)
    whole = (crops.height == height) & (crops.width == width)
    assert np.all(whole | ((ratio_low >= RATIO[0] - 1e-9) & (ratio_high <= RATIO[1] + 1e-9)))
    area = height * width
    if RATIO[0] <= width / height <= RATIO[1]:
        assert np.all((crops.height + 0.5) * (crops.width + 0.5) >= low * area - 1e-6)


def test_crop_areas_and_places_are_spread_as_stated() -> None:
    sizes = np.tile([[300, 300]], (MANY, 1))
    crops = draw_crops(keys(MANY), sizes, scale=(0.2, 0.5), flip=0.25)
    area = crops.height * crops.width / 300**2
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.275, 0.35, 0.425], atol=0.01)
    ratio = np.log(crops.width / crops.height)
    np.testing.assert_allclose(
        np.quantile(ratio, [0.25, 0.5, 0.75]), np.log(4 / 3) * np.array([-0.5, 0, 0.5]), atol=0.01
    )
    for start, length in ((crops.top, crops.height), (crops.left, crops.width)):
        place = (start + 0.5) / (300 - length + 1)
        np.testing.assert_allclose(np.quantile(place, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)
    assert crops.flip.mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_a_picture_no_crop_fits_gives_the_central_box_of_clamped_ratio(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    crops = draw_crops(keys(20), np.tile([size], (20, 1)), scale=(1.0, 1.0), flip=0.0)
    found = np.stack([crops.top, crops.left, crops.height, crops.width], axis=1)
    assert found.tolist() == [list(box)] * 20


def test_colour_probabilities_factors_and_orders_are_spread_as_stated() -> None:
    drawn = colors(MANY)
    assert drawn.jitter.mean() == pytest.approx(0.8, abs=0.01)
    assert drawn.greyscale.mean() == pytest.approx(0.2, abs=0.01)
    low, high = np.array([0.6, 0.7, 0.0, -0.1]), np.array([1.4, 1.3, 2.5, 0.1])
    assert np.all((drawn.factors >= low) & (drawn.factors <= high))
    np.testing.assert_allclose(drawn.factors.mean(axis=0), (low + high) / 2, atol=0.015)
    seen = (drawn.order[:, None, :] == ORDERS).all(axis=2).mean(axis=0)
    np.testing.assert_allclose(seen, 1 / 24, atol=0.006)


def test_a_probability_of_zero_or_one_is_certain() -> None:
    assert not colors(MANY, jitter=0.0).jitter.any()
    assert colors(MANY, jitter=1.0).jitter.all()
    assert not draw_sigmas(keys(MANY), probability=0.0).any()
    assert (draw_sigmas(keys(MANY), probability=1.0) >= SIGMA[0]).all()
    assert (colors(10, hue=0.0).factors[:, HUE] == 0.0).all()


def test_sigmas_are_uniform_where_a_view_is_blurred() -> None:
    drawn = draw_sigmas(keys(MANY), probability=0.5)
    blurred = drawn[drawn > 0]
    assert len(blurred) / MANY == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(np.quantile(blurred, [0, 0.5, 1]), [0.1, 1.05, 2.0], atol=0.02)
