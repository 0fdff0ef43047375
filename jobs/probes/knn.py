"""Weighted k-NN on features, for several k in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 256


def knn_predictions(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    ks: Sequence[int],
    classes: int,
    temperature: float = 0.1,
) -> Tensor:
    """Classes by a vote of the nearest neighbours: cosine, each weighs exp(similarity / temperature).

    Wu et al., 2018, section 3.4.

    Args:
        train: Shape (n, c).
        train_labels: Shape (n,), int64.
        test: Shape (m, c).
        ks: Numbers of neighbours that vote; at most n are used.
        classes: How many there are.
        temperature: See above.

    Returns:
        int64 (len(ks), m).
    """
    train = F.normalize(train.float(), dim=1)
    most = min(max(ks), len(train))
    predicted = torch.empty(len(ks), len(test), dtype=torch.int64, device=train.device)
    for start in range(0, len(test), _ROWS):
        similarity = F.normalize(test[start : start + _ROWS].float(), dim=1) @ train.T
        nearest, index = similarity.topk(most, dim=1)
        weights, labels = (nearest / temperature).exp(), train_labels[index]
        votes = torch.zeros(len(nearest), classes, device=train.device)
        counted = 0
        for k in sorted(set(ks)):
            votes.scatter_add_(1, labels[:, counted:k], weights[:, counted:k])
            counted = max(counted, min(k, most))
            for row in [row for row, wanted in enumerate(ks) if wanted == k]:
                predicted[row, start : start + _ROWS] = votes.argmax(dim=1)
    return predicted
