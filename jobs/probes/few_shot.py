"""Few labels: a small part of each class to fit to."""

from __future__ import annotations

import torch
from torch import Tensor


def few_shot_rows(labels: Tensor, fraction: float, *, seed: int) -> Tensor:
    """The rows of a part of each class, at least one of each, drawn without replacement.

    Args:
        labels: int64 (n,).
        fraction: Of each class, above 0 and at most 1.
        seed: Of the draw.

    Returns:
        int64 (s,), ascending.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():  # type: ignore[no-untyped-call]
        rows = (labels == label).nonzero().flatten().cpu()
        count = max(1, round(fraction * len(rows)))
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(chosen).sort().values.to(labels.device)
