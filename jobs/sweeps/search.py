"""How configurations are found: asked for one at a time, told what each was worth."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from jobs.errors import RecoError
from jobs.spec import Sweep
from jobs.sweeps.distributions import decoded, distribution, encoded

_TRIES = 1000


class Search(ABC):
    """A way through a space. What it answers is a function of its seed and of all that it was asked and told."""

    @abstractmethod
    def ask(self, number: int) -> dict[str, Any] | None:
        """Values for the trial of that number; None when the space is used up."""

    @abstractmethod
    def tell(self, number: int, objective: float | None) -> None:
        """What that trial was worth; None where it failed."""

    @abstractmethod
    def replace(self, number: int, values: Mapping[str, Any]) -> None:
        """The trial of that number has other values than it was answered: a ledger from another version says so."""


def open_search(sweep: Sweep, *, study: str) -> Search:
    """The search a sweep asks for.

    Args:
        sweep: With its space.
        study: A name that no other sweep has.
    """
    return Grid(sweep) if sweep.spec.search.name == "grid" else Drawn(sweep, study=study)


class Grid(Search):
    """Every combination in order."""

    def __init__(self, sweep: Sweep) -> None:
        self._points = sweep.grid()

    def ask(self, number: int) -> dict[str, Any] | None:
        """The combination of that place."""
        return self._points[number] if number < len(self._points) else None

    def tell(self, number: int, objective: float | None) -> None:
        """Nothing is learned."""

    def replace(self, number: int, values: Mapping[str, Any]) -> None:
        """Nothing was learned."""


class Drawn(Search):
    """Ray Tune's Optuna search: TPE, or at random; the base's own values come first, where they lie in the space.

    Draws that make no run, because options do not fit together, are told to the sampler as failed and drawn again.
    """

    def __init__(self, sweep: Sweep, *, study: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._asked: dict[int, str] = {}
        self._replaced: dict[int, Mapping[str, Any]] = {}
        self._drawn: list[dict[str, Any]] = []
        self._finite = all(dimension.listed is not None for dimension in sweep.space.values())
        spec = sweep.spec.search
        startup = spec.random_trials or min(10, math.ceil(sweep.trials / 3))
        base = sweep.point_of_base()
        self._optuna = OptunaSearch(
            space={path: distribution(dimension) for path, dimension in sweep.space.items()},
            metric="objective",
            mode=sweep.spec.objective.mode,
            sampler=optuna.samplers.TPESampler(seed=spec.seed, n_startup_trials=startup)
            if spec.name == "tpe"
            else optuna.samplers.RandomSampler(seed=spec.seed),
            study_name=study,
            points_to_evaluate=[encoded(self._sweep.space, base)] if base is not None else None,
        )

    def ask(self, number: int) -> dict[str, Any] | None:
        """A draw that makes a run, and was not drawn before where the space can be listed.

        Raises:
            RecoError: None was found.
        """
        for attempt in range(_TRIES):
            name = f"{number}.{attempt}"
            drawn = self._optuna.suggest(name)
            assert isinstance(drawn, dict)
            values = decoded(self._sweep.space, drawn)
            seen = self._finite and values in self._drawn
            if not seen and self._sweep.why_not(values) is None:
                self._asked[number] = name
                self._drawn.append(values)
                return values
            self._optuna.on_trial_complete(name, error=True)
        if self._finite:
            return None
        raise RecoError(
            f"{_TRIES} draws gave no configuration that makes a run: {self._sweep.why_not(values)}.",
            hint="Narrow the space to where options fit together.",
        )

    def tell(self, number: int, objective: float | None) -> None:
        """Let the sampler learn."""
        if number in self._replaced:
            if objective is not None:
                self._optuna.add_evaluated_point(encoded(self._sweep.space, self._replaced[number]), objective)
            return
        result = None if objective is None else {"objective": objective}
        self._optuna.on_trial_complete(self._asked[number], result=result, error=objective is None)

    def replace(self, number: int, values: Mapping[str, Any]) -> None:
        """Forget the draw, and learn the objective with these values when it is told."""
        if number in self._asked:
            self._optuna.on_trial_complete(self._asked[number], error=True)
        self._replaced[number] = values
        self._drawn.append(dict(values))


logging.getLogger("ray.tune.search.optuna.optuna_search").setLevel(logging.ERROR)  # of every draw that is refused
