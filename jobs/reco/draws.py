"""Every random choice of one step, as a pure function of (seed, step, group): the same on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Streams keep the choices apart; a new kind of choice takes a new number, so that old runs stay reproducible.
_STREAM_KEYS = 0
_STREAM_MIX = 1


@dataclass(frozen=True)
class GroupMix:
    """How one group mixes its pictures in one step.

    Attributes:
        permutation: π, shape (pictures per group,), int64, within the group.
        mix: λ ~ Beta(α, α).
        centre: Vertical and horizontal centre of the box, uniform in [0, 1).
    """

    permutation: Tensor
    mix: float
    centre: tuple[float, float]


def key_permutation(*, seed: int, step: int, size: int) -> Tensor:
    """The order in which a step's keys meet the batch norms: a permutation of 0..size-1, int64."""
    return torch.from_numpy(_generator(seed, step, _STREAM_KEYS, 0).permutation(size))


def group_mix(*, seed: int, step: int, group: int, size: int, alpha: float) -> GroupMix:
    """Draw π, λ and the box's centre for one group.

    Args:
        seed: The run's seed.
        step: Global step from 0.
        group: Number of the group in 0..groups-1, over all ranks.
        size: Pictures per group.
        alpha: Both parameters of the Beta distribution; above 0.
    """
    generator = _generator(seed, step, _STREAM_MIX, group)
    permutation = torch.from_numpy(generator.permutation(size))
    mix = float(generator.beta(alpha, alpha))
    row, column = generator.random(2)
    return GroupMix(permutation, mix, (float(row), float(column)))


def _generator(seed: int, step: int, stream: int, group: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, group, step]))
