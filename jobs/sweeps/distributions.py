"""The options of a space as Optuna has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from jobs.spec import Dimension


def distribution(dimension: Dimension) -> BaseDistribution:
    """What an option is drawn from; of a list the place is drawn, since Optuna takes no lists and sections."""
    if dimension.values:
        return CategoricalDistribution(range(len(dimension.values)))
    low, high, step = dimension.low, dimension.high, dimension.step
    if step and all(isinstance(each, int) for each in (low, high, step)):
        return IntDistribution(int(low), int(high), step=int(step))
    if step:
        return FloatDistribution(low, high, step=step)
    return FloatDistribution(low, high, log=dimension.kind == "loguniform")


def encoded(space: Mapping[str, Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by path as Optuna has them."""
    return {path: space[path].values.index(value) if space[path].values else value for path, value in values.items()}


def decoded(space: Mapping[str, Dimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna has drawn as values by path."""
    return {path: space[path].values[value] if space[path].values else value for path, value in drawn.items()}
