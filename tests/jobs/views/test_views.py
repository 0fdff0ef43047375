"""The views as a whole: stateless, deterministic, in the promised layout, on every kind of picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.spec import ViewsSpec
from jobs.views import MEAN, STD, Pictures, Views, centre_view
from jobs.views import views as views_module
from jobs.views.parameters import draw_crops, sample_keys

SIZES = torch.tensor([[40, 56], [33, 20], [64, 64], [1, 1], [17, 64], [50, 50]], dtype=torch.int32)
IDS = np.array([4, 900_000_000_000, 17, 0, 3, 8])


def arrays(sizes: torch.Tensor = SIZES, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes.tolist()]


def batch(sizes: torch.Tensor = SIZES, seed: int = 0) -> Pictures:
    return Pictures.pack(arrays(sizes, seed))


def levels(view: torch.Tensor) -> torch.Tensor:
    """Undoes the normalisation: float levels 0..255, [n, 3, S, S]."""
    return (view * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255.0


def make(image_size: int = 48, seed: int = 1, **changes: float) -> Views:
    return Views(ViewsSpec(**changes), image_size=image_size, seed=seed)


@pytest.mark.parametrize("image_size", [32, 48, 224])
def test_views_are_float32_channels_last_and_finite(image_size: int) -> None:
    views = make(image_size, blur=0.5)
    made = [
        *views.strong(batch(), epoch=0, sample_ids=IDS, views=(0, 1)),
        views.weak(batch(), epoch=0, sample_ids=IDS, view=2),
        centre_view(batch(), image_size=image_size, crop_fraction=0.875),
    ]
    assert len(made) == 4
    for view in made:
        assert view.shape == (6, 3, image_size, image_size)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert levels(view).min() >= -1e-3
        assert levels(view).max() <= 255.001


def test_the_same_call_gives_the_same_bits() -> None:
    views = make(blur=0.5)
    first = views.strong(batch(), epoch=3, sample_ids=IDS, views=(0, 1))
    again = make(blur=0.5).strong(batch(), epoch=3, sample_ids=IDS, views=(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_view_does_not_depend_on_the_rest_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    views = make(blur=0.5)
    pictures = batch()
    strong = views.strong(pictures, epoch=3, sample_ids=IDS, views=(0, 1))
    weak = views.weak(pictures, epoch=3, sample_ids=IDS, view=2)
    shuffled = torch.tensor([5, 2, 0, 4, 1, 3])
    other = Pictures.pack([arrays()[number] for number in shuffled])
    moved = views.strong(other, epoch=3, sample_ids=IDS[shuffled.numpy()], views=(1, 0))
    # Sums over other windows may differ in their last bits: levels of 255, so 2e-5 of a level's 1/57 each.
    torch.testing.assert_close(moved[1], strong[0][shuffled], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[0], strong[1][shuffled], rtol=0, atol=1e-5)
    monkeypatch.setattr(views_module, "_CPU_FLOATS", (1, 1))
    for index, pixels in enumerate(arrays()):
        one = {"epoch": 3, "sample_ids": IDS[index : index + 1]}
        picture = Pictures.pack([pixels])
        alone = views.strong(picture, views=(1,), **one)[0]
        torch.testing.assert_close(alone[0], strong[1][index], rtol=0, atol=1e-5)
        alone = views.weak(picture, view=2, **one)
        torch.testing.assert_close(alone[0], weak[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("window_floats", [1, 3 * 20 * 30, 3 * 200 * 300])
def test_views_of_like_size_go_together_and_are_the_same_views(
    monkeypatch: pytest.MonkeyPatch, window_floats: int
) -> None:
    views, pictures = make(blur=0.5), batch()
    expected = views.strong(pictures, epoch=3, sample_ids=IDS, views=(0, 1))
    monkeypatch.setattr(views_module, "_CPU_FLOATS", (2**21, window_floats))
    found = views.strong(pictures, epoch=3, sample_ids=IDS, views=(0, 1))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_one_large_picture_does_not_make_all_windows_large() -> None:
    windows = np.array([3 * 32 * 32] * 255 + [3 * 400 * 500], dtype=np.int64)
    portions = list(views_module._portions(windows, most=682, window_floats=2**23))
    assert sorted(np.concatenate(portions).tolist()) == list(range(256))
    assert max(len(each) * int(windows[each].max()) for each in portions) <= 2**23
    assert len(portions) == 2


@pytest.mark.parametrize("change", ["epoch", "view", "seed", "sample"])
def test_another_epoch_view_seed_or_sample_gives_another_view(change: str) -> None:
    sizes = torch.full((8, 2), 40)
    pictures, ids = batch(sizes), np.arange(8)
    first = make(seed=1).strong(pictures, epoch=0, sample_ids=ids, views=(0,))[0]
    other = make(seed=2 if change == "seed" else 1).strong(
        pictures,
        epoch=1 if change == "epoch" else 0,
        sample_ids=ids + 100 if change == "sample" else ids,
        views=(1 if change == "view" else 0,),
    )[0]
    assert ((first - other).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_a_weak_view_is_the_drawn_crop_of_its_picture_normalised() -> None:
    made = levels(make(32).weak(batch(), epoch=5, sample_ids=IDS, view=2)).round()
    keys = sample_keys(seed=1, epoch=5, sample_ids=IDS, view=2)
    crops = draw_crops(keys, SIZES.numpy().astype(np.int64), scale=(0.2, 1.0), flip=0.5)
    for index, picture in enumerate(arrays()):
        top, left = int(crops.top[index]), int(crops.left[index])
        box = (left, top, left + int(crops.width[index]), top + int(crops.height[index]))
        image = Image.fromarray(picture).crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        if crops.flip[index]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert (made[index] - expected).abs().max() <= 1


def test_a_strong_view_with_everything_off_is_the_weak_view() -> None:
    views = make(32, jitter=0.0, greyscale=0.0, blur=0.0)
    strong = views.strong(batch(), epoch=0, sample_ids=IDS, views=(2,))[0]
    assert torch.equal(strong, views.weak(batch(), epoch=0, sample_ids=IDS, view=2))


def test_greyscale_and_blur_reach_the_share_of_views_the_spec_asks_for() -> None:
    sizes = torch.full((500, 2), 12)
    pictures, ids = batch(sizes), np.arange(500)
    plain = levels(
        make(16, greyscale=0.0, jitter=0.0, blur=0.0).strong(pictures, epoch=0, sample_ids=ids, views=(0,))[0]
    )
    grey = levels(
        make(16, greyscale=0.3, jitter=0.0, blur=0.0).strong(pictures, epoch=0, sample_ids=ids, views=(0,))[0]
    )
    spread = (grey.amax(dim=1) - grey.amin(dim=1)).amax(dim=(1, 2))
    assert (spread < 0.01).float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert torch.equal(grey[spread > 0.01], plain[spread > 0.01])
    blurred = levels(
        make(16, greyscale=0.0, jitter=0.0, blur=0.4).strong(pictures, epoch=0, sample_ids=ids, views=(0,))[0]
    )
    untouched = (blurred == plain).flatten(1).all(dim=1).float().mean().item()
    assert untouched == pytest.approx(0.6, abs=0.07)


def test_blur_left_open_is_off_for_small_views_only() -> None:
    assert make(32).blur == 0.0
    assert make(64).blur == 0.5
    assert make(32, blur=0.25).blur == 0.25


def test_a_black_picture_stays_black() -> None:
    black = Pictures.pack([np.zeros((20, 20, 3), np.uint8)] * 16)
    made = make(48).strong(black, epoch=0, sample_ids=np.arange(16), views=(0,))[0]
    torch.testing.assert_close(levels(made), torch.zeros_like(made), rtol=0, atol=1e-4)


def test_centre_view_is_pillows_resize_of_the_centre_square() -> None:
    made = levels(centre_view(batch(), image_size=32, crop_fraction=0.8)).round()
    for index, (height, width) in enumerate(SIZES.tolist()):
        side = max(1, round(0.8 * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        image = Image.fromarray(arrays()[index]).crop((left, top, left + side, top + side))
        expected = np.array(image.resize((32, 32), Image.Resampling.BILINEAR))
        assert (made[index] - torch.from_numpy(expected).permute(2, 0, 1)).abs().max() <= 1


def test_views_stay_float32_under_autocast() -> None:
    views = make(32)
    plain = views.weak(batch(), epoch=0, sample_ids=IDS, view=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = views.weak(batch(), epoch=0, sample_ids=IDS, view=0)
    assert torch.equal(plain, mixed)


def test_arguments_that_do_not_fit_are_refused() -> None:
    views = make(32)
    with pytest.raises(ValueError, match="sample_ids"):
        views.strong(batch(), epoch=0, sample_ids=IDS[:3], views=(0,))
    with pytest.raises(ValueError, match="crop_fraction"):
        centre_view(batch(), image_size=32, crop_fraction=1.5)


def test_pictures_that_do_not_fit_their_bytes_are_refused() -> None:
    pixels = torch.zeros(60, dtype=torch.uint8)
    one = {"offsets": np.array([0]), "sizes": np.array([[3, 5]])}
    assert len(Pictures(pixels, **one)) == 1
    with pytest.raises(ValueError, match="uint8"):
        Pictures(pixels.float(), **one)
    with pytest.raises(ValueError, match="sizes must be"):
        Pictures(pixels, one["offsets"], np.array([[3, 5]] * 2))
    with pytest.raises(ValueError, match="one more line"):
        Pictures(pixels[:59], **one)
    with pytest.raises(ValueError, match="at least one"):
        Pictures(pixels, one["offsets"], np.array([[0, 5]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_views_of_the_cpu() -> None:
    views = make(64, blur=0.5)
    host = views.strong(batch(), epoch=0, sample_ids=IDS, views=(0, 1))
    device = views.strong(batch().to(torch.device("cuda")), epoch=0, sample_ids=IDS, views=(0, 1))
    for on_host, on_device in zip(host, device, strict=True):
        assert on_device.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(on_device.cpu(), on_host, rtol=0, atol=1e-3)
