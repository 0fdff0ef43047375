"""Runs that are one experiment, and how far their seeds lie apart: what a difference between groups is held against."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jobs.tracking.compared_runs import ComparedRun, Mode

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """A metric of a group.

    Attributes:
        mean: Over its seeds.
        sd: Standard deviation over its seeds; None with one seed.
        n: How many seeds.
    """

    mean: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        if not self.sd:
            return f"{self.mean:.4g}" if self.sd is None else f"{self.mean:.4g} ± 0"
        digits = min(max(1 - math.floor(math.log10(self.sd)), 0), 6)
        return f"{self.mean:.{digits}f} ± {self.sd:.{digits}f}"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only: one experiment.

    Attributes:
        label: The id of its run; of several, what their ids have in common.
        runs: At least one.
    """

    label: str
    runs: tuple[ComparedRun, ...]

    @property
    def seeds(self) -> int:
        """How many different seeds it has."""
        return len({run.seed for run in self.runs})

    @property
    def title(self) -> str:
        """Its label, with the number of seeds where there are several runs."""
        if len(self.runs) == 1:
            return self.label
        return f"{self.label} ({self.seeds} seeds)" if self.seeds > 1 else f"{self.label} ({len(self.runs)} runs)"

    def summary(self, metric: str, *, best: bool = False) -> Summary | None:
        """A metric over its seeds, by the last value of each run or by the best; None where no run has it.

        Runs of one seed count as one, by their mean: repeating a seed tells nothing of the others.
        """
        by_seed: dict[str, list[float]] = {}
        for run in self.runs:
            values = run.best if best else run.last
            if metric in values:
                by_seed.setdefault(run.seed, []).append(values[metric])
        means = [statistics.fmean(values) for values in by_seed.values()]
        if not means:
            return None
        return Summary(statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None, len(means))


@dataclass(frozen=True)
class Verdict:
    """Which group is best by one metric.

    Attributes:
        metric: By its last values.
        mode: Whether more is better, or less.
        ranked: The groups that have it, the best first.
        margin: Half of the 95 % interval of the difference between the best and the next; None where no seed was
            repeated, or there is no next.
        beyond: Whether the difference is larger than that; None where the margin is.
        words: All of it in a sentence.
    """

    metric: str
    mode: Mode
    ranked: tuple[Group, ...]
    margin: float | None
    beyond: bool | None
    words: str


def label_of(members: Sequence[ComparedRun], groups: Sequence[Sequence[ComparedRun]]) -> str:
    """Return what the labels of some runs have in common, whole words of it, where no run of another group has it."""
    first = members[0].label
    words = [re.split(r"([-_./])", run.label) for run in members]
    shared = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    common = "".join(column[0] for column in shared).rstrip("-_./")
    others = (run.label for group in groups if group is not members for run in group)
    taken = any(label.startswith(common) for label in others)
    return f"{first} +{len(members) - 1}" if taken or not common else common


def judge(groups: Sequence[Group], metric: str, mode: Mode) -> Verdict:
    """Say which group is best by a metric that at least one of them has.

    Args:
        groups: To be ranked; those without the metric are not.
        metric: By its last values.
        mode: Whether more of it is better, or less.
    """
    sign = 1 if mode == "max" else -1
    having = [(group, summary) for group in groups if (summary := group.summary(metric)) is not None]
    having.sort(key=lambda pair: -sign * pair[1].mean)
    ranked = tuple(group for group, _ in having)
    best, top = having[0]
    if len(having) == 1:
        alone = "the only experiment here" if len(groups) == 1 else "the only one with this metric"
        return Verdict(metric, mode, ranked, None, None, f"{best.title} is {alone}: {metric} {top}.")
    second, runner_up = having[1]
    gap, margin = abs(top.mean - runner_up.mean), margin_of(top, runner_up)
    beyond = None if margin is None else gap > margin
    words = (
        f"{best.title} is best by {metric}: {top}, {gap:.3g} {'more' if sign > 0 else 'less'} than {second.title} "
        f"({runner_up}). "
    )
    if gap == 0:
        words = f"{best.title} and {second.title} are alike by {metric}: {top}. "
    if margin is None:
        words += "With one seed each nothing is known of the spread between seeds: a small difference may be chance."
        return Verdict(metric, mode, ranked, margin, beyond, words)
    more = sum(_within(top, other) for _, other in having[2:])
    if beyond:
        words += f"That is beyond the spread of seeds (chance gives up to {margin:.2g}, at {100 * CONFIDENCE:.0f} %)"
        words += f"; {more} further down have so wide a spread that they may be as good." if more else "."
    else:
        words += f"That is within the spread of seeds (chance gives up to {margin:.2g}, at {100 * CONFIDENCE:.0f} %)"
        words += (f", as are {more} more" if more else "") + ": these runs do not tell which is better."
    return Verdict(metric, mode, ranked, margin, beyond, words)


def margin_of(one: Summary, other: Summary) -> float | None:
    """Half of the 95 % interval of the difference of two means, by Welch's t; None where no seed was repeated.

    Where only one of the two has several seeds, its spread stands for both.
    """
    pairs = [(each.sd, each.n) for each in (one, other) if each.sd is not None]
    if not pairs:
        return None
    if len(pairs) == 1:
        sd, n = pairs[0]
        return _quantile(n - 1) * sd * math.sqrt(1 / one.n + 1 / other.n)
    variances = [sd * sd / n for sd, n in pairs]
    total = sum(variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / (n - 1) for variance, (_, n) in zip(variances, pairs, strict=True))
    return _quantile(freedom) * math.sqrt(total)


def _within(one: Summary, other: Summary) -> bool:
    margin = margin_of(one, other)
    return margin is not None and abs(one.mean - other.mean) <= margin


@lru_cache(maxsize=1024)
def _quantile(freedom: float) -> float:
    """The t that a value of Student's distribution stays within, either way, with 95 %.

    With t = √ν·tan θ the density becomes cos^(ν−1) θ, which a sum over θ integrates well for every ν of 1 or more.
    """
    theta = np.linspace(0, np.pi / 2, 5001)
    middle = (theta[1:] + theta[:-1]) / 2
    mass = np.cumsum(np.cos(middle) ** (freedom - 1))
    return float(math.sqrt(freedom) * np.tan(np.interp(CONFIDENCE, mass / mass[-1], theta[1:])))
