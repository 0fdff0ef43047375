"""What a sweep is: a run, the space its options are varied over, how configurations are found and how long tried."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from jobs.spec.describe import closest
from jobs.spec.document import Document
from jobs.spec.loading import SpecError, load_spec, parse, parse_spec, read_text
from jobs.spec.models import Count, Name, Positive, RunSpec, ScaleSpec, Section, Text, Words
from jobs.spec.space import RECO_SPACE, Dimension, Values, space_mistakes, why_not, with_values

PROBED = ("valid/knn", "valid/rank_me")
UNLABELLED = "train/rank_me"
_DRAWS = 300

Duration = Annotated[
    str, Field(pattern=r"^[1-9][0-9]{0,8}[smhd]$"), Words("a duration such as `90s`, `20m`, `4h` or `2d`")
]
Reduction = Annotated[float, Field(gt=1)]


class ObjectiveSpec(Section):
    """What a trial is judged by."""

    metric: Text | None = Field(
        default=None,
        description="valid/knn, valid/rank_me or, without labels, train/rank_me; null takes valid/knn where the base "
        "has a probe, else train/rank_me.",
    )
    mode: Literal["max", "min"] = Field(default="max", description="Whether more is better, or less.")


class SearchSpec(Section):
    """How configurations are found."""

    name: Literal["tpe", "random", "grid"] = Field(
        default="tpe", description="Optuna's TPE, which learns from the trials before; at random; or every combination."
    )
    random_trials: Count | None = Field(
        default=None, description="Trials TPE draws at random before it learns; null takes a third, at most 10."
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(default=0, description="Seed of what is drawn.")


class SchedulerSpec(Section):
    """Which trials are stopped before their end."""

    name: Literal["asha", "median", "none"] = Field(
        default="asha",
        description="ASHA: at each rung only the best 1/reduction goes on; median: those below the median stop; none.",
    )
    grace_epochs: Count | None = Field(
        default=None, description="Epochs before a trial may be stopped; null takes a ninth of a trial."
    )
    reduction: Reduction = Field(default=3.0, description="Factor between two rungs of ASHA.")


class BudgetSpec(Section):
    """What a sweep may use; it saves and stops when something is used up."""

    epochs: Count | None = Field(default=None, description="Epochs of a whole trial; null takes train.epochs.")
    gpu_hours: Positive | None = Field(default=None, description="GPU-hours of all trials together; null: no limit.")
    wall_time: Duration | None = Field(default=None, description="Time of the whole sweep; null: no limit.")

    @property
    def seconds(self) -> float | None:
        """The wall time in seconds."""
        if self.wall_time is None:
            return None
        return float(int(self.wall_time[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[self.wall_time[-1]])


class SweepSpec(Section):
    """One sweep."""

    name: Name = Field(description="Name of the sweep, for people.")
    base: Text = Field(description="Spec of the run whose options are varied; a path from where this file lies.")
    space: Annotated[dict[str, Dimension], Words("options by path, each with a range or a list")] | None = Field(
        default=None, description="What is varied; null takes ReCo's two weights and three temperatures."
    )
    objective: ObjectiveSpec = Field(default_factory=ObjectiveSpec, description="What a trial is judged by.")
    search: SearchSpec = Field(default_factory=SearchSpec, description="How configurations are found.")
    scheduler: SchedulerSpec = Field(default_factory=SchedulerSpec, description="Which trials are stopped early.")
    trials: Count | None = Field(default=None, description="Configurations; null takes 20, or the whole grid.")
    seeds: Count = Field(
        default=1,
        description="Seeds of a configuration: one that comes to the end is trained with each, and the mean counts.",
    )
    concurrency: Count | None = Field(
        default=None, description="Trials at a time; null takes as many as the cluster holds, and never more."
    )
    budget: BudgetSpec = Field(default_factory=BudgetSpec, description="What the sweep may use.")
    scale: ScaleSpec | None = Field(default=None, description="What one trial runs on; null takes the base's.")


@dataclass(frozen=True)
class Sweep:
    """A sweep with its base, checked against each other.

    Attributes:
        spec: As written.
        base: The run whose options are varied.
    """

    spec: SweepSpec
    base: RunSpec

    @property
    def space(self) -> Mapping[str, Dimension]:
        """What is varied."""
        return RECO_SPACE if self.spec.space is None else self.spec.space

    @property
    def metric(self) -> str:
        """What trials are judged by."""
        return self.spec.objective.metric or (PROBED[0] if self.base.data.probe else UNLABELLED)

    @property
    def epochs(self) -> int:
        """Epochs of a whole trial."""
        return self.spec.budget.epochs or self.base.train.epochs

    @property
    def grace(self) -> int:
        """Epochs to the first rung."""
        return self.spec.scheduler.grace_epochs or max(1, self.epochs // 9)

    @property
    def judged_every(self) -> int:
        """Epochs between two judgements of a trial; the last epoch is always judged."""
        return self.grace if self.epochs % self.grace == 0 else 1

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which trials are compared, the last of a trial included."""
        if self.spec.scheduler.name == "none":
            return (self.epochs,)
        if self.spec.scheduler.name == "median":
            return (*range(self.grace, self.epochs, self.judged_every), self.epochs)
        rungs, rung = [], float(self.grace)
        while rung < self.epochs:
            rungs.append(math.ceil(rung / self.judged_every) * self.judged_every)  # the first judgement from there on
            rung *= self.spec.scheduler.reduction
        return (*(each for each in dict.fromkeys(rungs) if each < self.epochs), self.epochs)

    @property
    def trials(self) -> int:
        """Configurations that are tried."""
        if self.spec.search.name != "grid":
            return self.spec.trials or 20
        whole = len(self.grid())
        return whole if self.spec.trials is None else min(self.spec.trials, whole)

    def grid(self) -> list[dict[str, object]]:
        """Every combination of the listed values that makes a run; the last option changes fastest."""
        points: list[dict[str, object]] = [{}]
        for path, dimension in self.space.items():
            points = [{**point, path: value} for point in points for value in dimension.listed or ()]
        return [point for point in points if self.why_not(point) is None]

    def why_not(self, values: Values) -> str | None:
        """What stands against a trial with these values, in words; None where nothing does."""
        return why_not(self._trial_base, values)

    def trial(self, values: Values, *, seed: int = 0) -> RunSpec:
        """The run that tries a configuration.

        It never reads the probe's test set, and registers nothing. It is judged at every multiple of the grace.

        Args:
            values: Of the options that are varied.
            seed: Which of the seeds, counted from the base's.
        """
        spec = with_values(self._trial_base, values)
        return with_values(spec, {"train.seed": (spec.train.seed + seed) % 2**32})

    def full(self, values: Values) -> RunSpec:
        """The base with a configuration, at its own length and with its own registration."""
        return with_values(self.base, values)

    def point_of_base(self) -> dict[str, object] | None:
        """The base's own values, where they lie in the space: the configuration everything is compared with."""
        content = self.base.model_dump(mode="json")
        point: dict[str, object] = {}
        for path, dimension in self.space.items():
            value: object = content
            for each in path.split("."):
                value = value[each] if isinstance(value, dict) else None
            inside = (
                value in dimension.values
                if dimension.values
                else isinstance(value, int | float) and dimension.low <= value <= dimension.high
            )
            if not inside or (dimension.step and value not in (dimension.listed or ())):
                return None
            point[path] = value
        return point

    @property
    def _trial_base(self) -> RunSpec:
        base, epochs = self.base, self.epochs
        warmup = base.train.warmup_epochs
        content = base.model_dump(mode="json")
        content["train"] |= {
            "epochs": epochs,
            "probe_every": self.judged_every,
            # A warm-up as long as the base's, for a shorter trial in proportion.
            "warmup_epochs": min(warmup, max(round(warmup * epochs / base.train.epochs), min(warmup, 1))),
        }
        content["register"] = None
        if base.data.probe is not None:
            content["data"]["probe"]["test"] = None
        if self.spec.scale is not None:
            content["scale"] = self.spec.scale.model_dump(mode="json")
        return RunSpec.model_validate(content)


def load_sweep(path: pathlib.Path, overrides: Sequence[str] = ()) -> Sweep:
    """Load a sweep and its base.

    Raises:
        SpecError: With every mistake of the sweep, or of the base.
    """
    spec, document = parse(SweepSpec, read_text(path), overrides, str(path))
    return _checked(Sweep(spec, load_spec(path.parent / spec.base)), document, str(path))


def parse_sweep(text: str, base: RunSpec | str, overrides: Sequence[str] = (), source: str = "sweep") -> Sweep:
    """Read a sweep from YAML text and check it against its base.

    Raises:
        SpecError: With every mistake.
    """
    spec, document = parse(SweepSpec, text, overrides, source)
    return _checked(Sweep(spec, parse_spec(base) if isinstance(base, str) else base), document, source)


def _checked(sweep: Sweep, document: Document, source: str) -> Sweep:
    found = _mistakes(sweep)
    if found:
        placed = [document.place(path).mistake(path, message) for path, message in found]
        raise SpecError(source, sorted(placed, key=lambda each: each.line or 0))
    return sweep


def _mistakes(sweep: Sweep) -> list[tuple[tuple[str, ...], str]]:
    """What stands against a sweep whose options are each valid, with the path of the one to change."""
    spec = sweep.spec
    found: list[tuple[tuple[str, ...], str]] = []
    if (why := _objective_mistake(sweep)) is not None:
        found.append((("objective", "metric"), why))
    if not sweep.space:
        found.append(
            (("space",), "is empty; leave it out for ReCo's own, or name an option such as method.temperature")
        )
    outside = space_mistakes(sweep.base, sweep.space)
    found += [(("space", path), message) for path, message in outside.items()]
    for path, dimension in sweep.space.items():
        if spec.search.name == "grid" and dimension.listed is None:
            found.append((("space", path), "has no end to list, as a grid needs; give grid, choice or quniform"))
        if spec.search.name != "grid" and dimension.kind == "grid":
            found.append((("space", path), f"search {spec.search.name} draws values; write choice, or search by grid"))
    if sweep.grace > sweep.epochs:
        found.append(
            (("scheduler", "grace_epochs"), f"{sweep.grace} is more than the {sweep.epochs} epochs of a trial")
        )
    scale = spec.scale or sweep.base.scale
    if spec.budget.gpu_hours is not None and scale.gpus_per_worker == 0:
        found.append((("budget", "gpu_hours"), "trials use no GPU; limit budget.wall_time instead"))
    if not found and (why := _no_run_in(sweep)) is not None:
        found.append((("space",), why))
    return found


def _objective_mistake(sweep: Sweep) -> str | None:
    metric, allowed = sweep.metric, PROBED if sweep.base.data.probe else (UNLABELLED,)
    if metric in allowed:
        return None
    if metric.partition("/")[0] == "test":
        return f"{metric} cannot be chosen by: the test set is read once, at the end; choose {allowed[0]}"
    if "loss" in metric or metric in ("train/contrast", "train/global_relation", "train/local_relation"):
        return (
            f"{metric} cannot be compared between trials: its value depends on the temperatures and weights that are "
            f"varied, so the least of it is not the best encoder; choose {allowed[0]}"
        )
    if metric in PROBED:
        return f"{metric} needs labelled pictures, and the base has no data.probe; choose {UNLABELLED}"
    near = closest(metric, allowed)
    return f"{metric} is not measured at a rung; " + (f"did you mean {near}?" if near else " or ".join(allowed))


def _no_run_in(sweep: Sweep) -> str | None:
    """Why a space holds no configuration that makes a run, as far as a few hundred draws tell; None where it does."""
    random, why = Random(0), None
    for _ in range(_DRAWS):
        why = sweep.why_not({path: _drawn(dimension, random) for path, dimension in sweep.space.items()})
        if why is None:
            return None
    return f"holds no combination that makes a run, or hardly any: {why}"


def _drawn(dimension: Dimension, random: Random) -> object:
    if dimension.listed is not None:
        return random.choice(dimension.listed)
    return random.uniform(dimension.low, dimension.high)
