"""When a run has diverged: its loss or its weights are no numbers, or it tells pictures apart worse than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from jobs.errors import RecoError

_MARGIN = 0.5  # of cosine: far beyond what a temperature or an unlucky start can make of a run that learns


class DivergedError(RecoError):
    """The run cannot learn any more."""


@torch.no_grad()
def weights_are_numbers(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether every weight is finite; waits for the device.

    A last update may spoil the weights after a loss that was still a number: they must not become a checkpoint.
    """
    return bool(torch.stack(torch._foreach_norm(list(parameters))).sum().isfinite())


def is_worse_than_chance(contrast: float, *, queue_size: int, temperature: float) -> bool:
    """Whether negatives are more similar to a query than its positive is, by half a unit of cosine.

    Where all similarities are equal, InfoNCE over K negatives is log(1 + K). A mean loss of ½ / T above that takes
    weights that have exploded: features that are unit vectors keep the loss finite all the same.

    Args:
        contrast: Mean InfoNCE of several steps.
        queue_size: K.
        temperature: T.
    """
    return contrast > math.log1p(queue_size) + _MARGIN / temperature


def what_broke(metrics: dict[str, float], *, queue_size: int, temperature: float, spoiled_weights: bool) -> str | None:
    """In what a run has diverged, from the means since the last logging step; None where it has not.

    Args:
        metrics: With `train/` before the loss and its terms.
        queue_size: As in `is_worse_than_chance`.
        temperature: As there.
        spoiled_weights: Whether a rank's weights are no numbers.
    """
    loss = metrics["train/loss"]
    if not math.isfinite(loss):
        terms = [name for name in ("contrast", "global_relation", "local_relation") if f"train/{name}" in metrics]
        broken = [name for name in terms if not math.isfinite(metrics[f"train/{name}"])]
        return f"the loss became {loss} ({', '.join(broken)})"
    if spoiled_weights:
        return "weights became infinite or no numbers"
    contrast = metrics["train/contrast"]
    if is_worse_than_chance(contrast, queue_size=queue_size, temperature=temperature):
        return f"the contrast loss exploded to {contrast:.1f}, where chance is {math.log1p(queue_size):.1f}"
    return None
