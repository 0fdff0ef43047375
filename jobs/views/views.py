"""The strong and weak views of a batch, and the one fixed view that evaluation uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from jobs.views.blur import blur_
from jobs.views.color import greyscale_, jitter_, schedule
from jobs.views.crop import crop_resize_flip
from jobs.views.parameters import (
    ColorParameters,
    CropParameters,
    Floats,
    Integers,
    Keys,
    draw_colors,
    draw_crops,
    draw_sigmas,
    sample_keys,
)
from jobs.views.pictures import Pictures

if TYPE_CHECKING:
    from jobs.spec import ViewsSpec

MEAN: Final = (0.485, 0.456, 0.406)
"""ImageNet's mean of red, green and blue in 0..1."""
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's standard deviation of red, green and blue in 0..1."""

# Views made in one go, counted in floats of the result and of the windows they come from. A CPU wants what it works on
# in its cache (twenty passes over it); an accelerator wants few launches, and only memory sets a bound.
_CPU_FLOATS: Final = (2**21, 2**23)
_ACCELERATOR_FLOATS: Final = (2**25, 2**27)


class Views:
    """Makes the augmented views of a run.

    Every view is a function of (seed, epoch, sample id, view) alone: it does not depend on the rest of the batch, the
    rank, the order or the device, up to the last bits of float32 sums.

    Args:
        spec: Strengths and probabilities.
        image_size: Side S of a view in pixels.
        seed: The run's seed.
    """

    def __init__(self, spec: ViewsSpec, *, image_size: int, seed: int) -> None:
        self.spec = spec
        self.image_size = image_size
        self.seed = seed
        self.blur = spec.blur_probability(image_size)

    @torch.no_grad()
    def strong(self, pictures: Pictures, *, epoch: int, sample_ids: Integers, views: Sequence[int]) -> list[Tensor]:
        """Makes several strong views of every picture in one batched chain.

        Crop and flip, colour jitter, greyscale, blur, normalise: MoCo v2's recipe (Chen et al., "Improved baselines
        with momentum contrastive learning", section 3).

        Args:
            pictures: n pictures.
            epoch: Number of the epoch.
            sample_ids: int64 [n].
            views: Numbers of the views; each number is a view of its own.

        Returns:
            One float32 [n, 3, S, S] per number, channels-last and normalised.

        Raises:
            ValueError: The arguments do not fit each other.
        """
        _check(pictures, sample_ids)
        keys = np.concatenate([self._keys(epoch, sample_ids, view) for view in views])
        spec = self.spec
        colors = draw_colors(
            keys,
            jitter=spec.jitter,
            brightness=spec.brightness,
            contrast=spec.contrast,
            saturation=spec.saturation,
            hue=spec.hue,
            greyscale=spec.greyscale,
        )
        sigmas = draw_sigmas(keys, probability=self.blur)
        crops = self._crops(keys, np.tile(pictures.sizes, (len(views), 1)))
        sources = np.tile(np.arange(len(pictures)), len(views))
        made = _make(pictures, sources, crops, self.image_size, colors, sigmas)
        return [made[row * len(pictures) : (row + 1) * len(pictures)] for row in range(len(views))]

    @torch.no_grad()
    def weak(self, pictures: Pictures, *, epoch: int, sample_ids: Integers, view: int) -> Tensor:
        """Makes a weak view of every picture: crop and flip only, normalised.

        Args:
            pictures: As in `strong`.
            epoch: Number of the epoch.
            sample_ids: int64 [n].
            view: Number of the view; a number used for a strong view gives that view's crop and flip.

        Returns:
            float32 [n, 3, S, S], channels-last.

        Raises:
            ValueError: The arguments do not fit each other.
        """
        _check(pictures, sample_ids)
        crops = self._crops(self._keys(epoch, sample_ids, view), pictures.sizes)
        return _make(pictures, np.arange(len(pictures)), crops, self.image_size)

    def _keys(self, epoch: int, sample_ids: Integers, view: int) -> Keys:
        return sample_keys(seed=self.seed, epoch=epoch, sample_ids=sample_ids, view=view)

    def _crops(self, keys: Keys, sizes: Integers) -> CropParameters:
        return draw_crops(keys, sizes, scale=self.spec.crop_scale, flip=self.spec.flip)


@torch.no_grad()
def centre_view(pictures: Pictures, *, image_size: int, crop_fraction: float) -> Tensor:
    """Makes the view that evaluation uses: the centre square of `crop_fraction` × the short side, resized, normalised.

    Args:
        pictures: n pictures.
        image_size: Side S of the view in pixels.
        crop_fraction: Part of the short side, above 0 and up to 1; 224/256 is usual for pictures of ImageNet's kind.

    Returns:
        float32 [n, 3, S, S], channels-last.

    Raises:
        ValueError: `crop_fraction` is out of range.
    """
    if not 0.0 < crop_fraction <= 1.0:
        raise ValueError(f"crop_fraction must be above 0 and at most 1, not {crop_fraction}")
    side = np.maximum(1, np.rint(crop_fraction * pictures.sizes.min(axis=1)).astype(np.int64))
    top, left = ((pictures.sizes - side[:, None]) // 2).T
    flip = np.zeros(len(side), dtype=np.bool_)
    return _make(pictures, np.arange(len(pictures)), CropParameters(top, left, side, side, flip), image_size)


def _make(
    pictures: Pictures,
    sources: Integers,
    crops: CropParameters,
    size: int,
    colors: ColorParameters | None = None,
    sigmas: Floats | None = None,
) -> Tensor:
    """Makes float32 [views, 3, size, size] in channels-last memory, `sources` naming the picture of each view."""
    count, device = len(sources), pictures.pixels.device
    result = torch.empty((count, size, size, 3), dtype=torch.float32, device=device)
    scale = torch.tensor([1.0 / (255.0 * std) for std in STD], device=device)
    shift = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)], device=device)
    floats, window_floats = _CPU_FLOATS if device.type == "cpu" else _ACCELERATOR_FLOATS
    most = max(1, floats // (3 * size * size))
    with torch.autocast(device.type, enabled=False):
        for views in _portions(3 * crops.height * crops.width, most=most, window_floats=window_floats):
            order = np.arange(len(views)) if colors is None else schedule(colors.take(views))
            views = views[order]
            planes = crop_resize_flip(pictures, sources[views], crops.take(views), size)
            if colors is not None:
                own = colors.take(views)
                pixels = planes.view(3, len(views), size * size)
                jitter_(pixels, own)
                greyscale_(pixels, np.flatnonzero(own.greyscale))
            if sigmas is not None:
                blur_(planes, sigmas[views])
            rows = torch.empty((len(views), size, size, 3), device=device)
            torch.addcmul(shift, planes.permute(1, 2, 3, 0), scale, out=rows)
            result.index_copy_(0, torch.from_numpy(views).to(device), rows)
    return result.permute(0, 3, 1, 2)


def _portions(windows: Integers, *, most: int, window_floats: int) -> Iterator[Integers]:
    """Cuts views into portions that are made in one go.

    All windows of a portion are as large as its largest. So where one picture is far larger than the rest, views go
    with others of their size rather than all be treated like it.

    Args:
        windows: Floats of each view's window, int64 [n].
        most: Most views of a portion.
        window_floats: Most floats of its windows, unless it is a single view.

    Yields:
        Numbers of views, int64; each view is in one portion.
    """
    count = len(windows)
    if min(most, count) * int(windows.max(initial=0)) <= window_floats:
        for first in range(0, count, most):
            yield np.arange(first, min(first + most, count))
        return
    by_size = np.argsort(-windows, kind="stable")
    first = 0
    while first < count:
        fit = int(window_floats // windows[by_size[first]])
        stop = min(first + max(1, min(most, fit)), count)
        yield by_size[first:stop]
        first = stop


def _check(pictures: Pictures, sample_ids: Integers) -> None:
    if sample_ids.shape != (len(pictures),):
        raise ValueError(f"sample_ids must be [{len(pictures)}] for as many pictures, not {list(sample_ids.shape)}")
