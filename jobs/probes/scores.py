"""Counts of right and wrong answers."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of int64 predictions (m,) against labels (m,)."""
    return 100.0 * float((predicted == labels).float().mean())


def confusion(predicted: Tensor, labels: Tensor, *, classes: int) -> Tensor:
    """How many pictures of class i were taken for class j: int64 (classes, classes).

    Args:
        predicted: int64 (m,).
        labels: int64 (m,).
        classes: How many there are.
    """
    return torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes)
