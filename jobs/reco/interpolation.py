"""Interpolated pictures and their interpolated targets: ReCo's local relation (arXiv 2211.01796, section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Box(NamedTuple):
    """A rectangle in pixels: rows top..bottom-1 and columns left..right-1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels inside."""
        return (self.bottom - self.top) * (self.right - self.left)


def cutmix_box(mix: float, centre: tuple[float, float], height: int, width: int) -> Box:
    """The box CutMix pastes, clipped at the border (Yun et al., 2019, section 3.1).

    Args:
        mix: λ in 0..1; the box takes the fraction √(1−λ) of each side before clipping.
        centre: Vertical and horizontal centre, each uniform in [0, 1).
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
    """
    side = (1.0 - mix) ** 0.5
    box_height, box_width = int(height * side), int(width * side)
    row, column = int(centre[0] * height), int(centre[1] * width)
    return Box(
        top=max(row - box_height // 2, 0),
        left=max(column - box_width // 2, 0),
        bottom=min(row + box_height // 2, height),
        right=min(column + box_width // 2, width),
    )


def cutmix(query_view: Tensor, key_view: Tensor, permutation: Tensor, box: Box) -> tuple[Tensor, float]:
    """Replace a box of each query view from another picture's key view.

    Args:
        query_view: Shape (n, 3, h, w).
        key_view: Shape (n, 3, h, w), in the same order as `query_view` (not shuffled).
        permutation: Shape (n,), int64; picture i takes its box from key view permutation[i].
        box: The pasted rectangle, one for the batch.

    Returns:
        The mixed pictures, and the ratio r of each picture that is still its own: 1 − pasted area / (h·w).
        It is the true area after clipping, so its mean is about 0.68 for λ uniform in 0..1, not 0.5.
    """
    mixed = query_view.clone()
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    mixed[:, :, rows, columns] = key_view[permutation, :, rows, columns]
    return mixed, 1.0 - box.area / (query_view.shape[2] * query_view.shape[3])


def mixup(query_view: Tensor, key_view: Tensor, permutation: Tensor, mix: float) -> tuple[Tensor, float]:
    """Blend each query view with another picture's key view (Zhang et al., 2018).

    Args and result as in `cutmix`; `mix` is λ and the ratio itself.
    """
    return mix * query_view + (1.0 - mix) * key_view[permutation], mix


def interpolation_target(query: Tensor, key: Tensor, permutation: Tensor, ratio: float | Tensor) -> Tensor:
    """The target of a mixed picture: the normalised interpolation of query and permuted key, wholly detached.

    Args:
        query: Query features, shape (n, c), unit rows.
        key: Key features, shape (n, c), unit rows, in the query's order.
        permutation: Shape (n,), int64; as used for mixing the pictures.
        ratio: r in 0..1, a scalar or shape (n, 1).

    Returns:
        Unit rows, shape (n, c), float32, without gradient.
    """
    query, key = query.detach().float(), key.detach().float()
    return F.normalize(ratio * query + (1.0 - ratio) * key[permutation], dim=1)
