"""Divides pictures into parts by fractions, class by class, and shuffles them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.shards.order import permutation

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PACKING = 4  # marks the random stream; `order.py` uses 1 to 3
_HINT = "Write it as train=0.8,valid=0.1,test=0.1."


def parse_split(text: str) -> dict[str, float]:
    """Read `train=0.8,valid=0.2`.

    Raises:
        UserError: Names or fractions that cannot be, or fractions that do not add up to 1.
    """
    fractions: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = item.strip().partition("=")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not _NAME.fullmatch(name) or not 0 < fraction <= 1:
            raise UserError(f"{item.strip()!r} is no part of a split.", hint=_HINT)
        if name in fractions:
            raise UserError(f"The split names {name} twice.", hint=_HINT)
        if name == "index":
            raise UserError("A part cannot be called index.", hint="The index of the shards has that name.")
        fractions[name] = fraction
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise UserError(f"The fractions of {text} add up to {sum(fractions.values()):g}, not to 1.", hint=_HINT)
    return fractions


def divide(
    labels: NDArray[np.int64], chosen: Sequence[int], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Deal the chosen pictures out, each class in the same proportions, in an order shuffled by `seed`.

    Args:
        labels: Class of every picture, -1 for none, which counts as a class of its own.
        chosen: Which pictures.
        fractions: Share of each part; they add up to 1.
        seed: Of the shuffle.

    Returns:
        The pictures of each part; disjoint, and together all of `chosen`.

    Raises:
        UserError: A part would be empty.
    """
    numbers = np.asarray(chosen, dtype=np.int64)
    shuffled = numbers[permutation(len(numbers), seed, 0, [0, 0, _PACKING])]
    cuts = np.cumsum(list(fractions.values()))
    cuts[-1] = 1.0
    part_of = np.empty(len(shuffled), np.int64)
    for label in np.unique(labels[shuffled]):
        (places,) = np.nonzero(labels[shuffled] == label)
        part_of[places] = np.searchsorted(np.rint(cuts * len(places)), np.arange(len(places)), side="right")
    parts = {name: shuffled[part_of == number].tolist() for number, name in enumerate(fractions)}
    for name, members in parts.items():
        if not members:
            raise UserError(
                f"The part {name} ({fractions[name]:g} of {len(numbers)} pictures) would be empty.",
                hint="Give it a larger fraction, or add pictures.",
            )
    return parts
