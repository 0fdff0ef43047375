"""What differs between runs, and which is better: all there is to say of some runs, made from what MLflow holds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.errors import UserError
from jobs.tracking.compared_groups import Group, Verdict, judge, label_of
from jobs.tracking.compared_runs import ComparedRun, Mode, direction
from jobs.tracking.figures import LOSS_NAMES

Kind = Literal["spec", "data", "code", "computed with"]
KINDS: tuple[Kind, ...] = ("spec", "data", "code", "computed with")
SEED = "train.seed"
ABSENT = "–"

_DEFAULTS = (("test/knn", "valid/knn"), ("test/rank_me", "valid/rank_me", "train/rank_me"), ("train/loss",))
_ORDER = ("test", "valid", "train", "health", "time")
_OF_DATA = ("dataset_hash", "bad_pictures")
# What names a run rather than describes it, what an option says already, and what follows from others.
_NO_FACTS = ("run_id", "sweep", "trial", "pid", "began", "precision", "spec_hash", "non_finite", "bad_pictures_first")
_BASELINES = {"knn_untrained": "the untrained encoder", "knn_raw_pixels": "raw pixels"}


@dataclass(frozen=True)
class Difference:
    """Something that not all runs have alike.

    Attributes:
        kind: What it is a part of.
        name: Dotted for options, else the name of the tag.
        by_run: Its value in each run, in the order of the runs; `ABSENT` where a run lacks it.
        by_group: The same for groups; several values of one group are separated by commas.
    """

    kind: Kind
    name: str
    by_run: tuple[str, ...]
    by_group: tuple[str, ...]

    @property
    def between_groups(self) -> bool:
        """Whether groups differ in it, rather than only runs within each."""
        return len(set(self.by_group)) > 1


@dataclass(frozen=True)
class Comparison:
    """All there is to say of some runs.

    Attributes:
        runs: In the order they were named.
        groups: In the order of their first runs.
        differences: By kind, options first.
        equal: How many options, and how many other facts, all runs have alike; by kind.
        metrics: Those that more than one run has and not all alike, what the runs are judged by first.
        equal_metrics: How many all runs have alike.
        verdict: Which is best.
        notes: What a reader should know before believing it.
    """

    runs: tuple[ComparedRun, ...]
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    equal: Mapping[Kind, int]
    metrics: tuple[str, ...]
    equal_metrics: int
    verdict: Verdict
    notes: tuple[str, ...]


def compare(
    runs: Sequence[ComparedRun],
    *,
    metric: str | None = None,
    mode: Mode | None = None,
    apart: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare runs.

    Args:
        runs: At least two, each with metrics.
        metric: What they are judged by; None takes k-NN on test, else on valid, of those that most runs have.
        mode: Whether more of it is better; None where it is known.
        apart: Names of facts outside the spec, such as `code` or `device`, that keep runs out of one group.
        notes: Of how the runs were found, to go before those of the comparison.

    Raises:
        UserError: No run has the metric, nobody knows whether more of it is better, or nothing in `apart` is known.
    """
    facts = [_facts(run) for run in runs]
    metric = _metric(runs, metric)
    mode = mode or direction(metric)
    if mode is None:
        raise UserError(f"whether more of {metric} is better is not known.", hint="Say so: --mode max, or --mode min.")
    groups = _groups(runs, facts, apart)
    names = sorted({key for each in facts for key in each}, key=lambda key: (KINDS.index(key[0]), key[1]))
    differences, equal = [], dict.fromkeys(KINDS, 0)
    of_run = {run.label: each for run, each in zip(runs, facts, strict=True)}
    for key in names:
        by_run = tuple(each.get(key, ABSENT) for each in facts)
        if len(set(by_run)) == 1:
            equal[key[0]] += 1
            continue
        values = ({of_run[run.label].get(key, ABSENT): None for run in group.runs} for group in groups)
        differences.append(Difference(*key, by_run, tuple(", ".join(sorted(each, key=natural)) for each in values)))
    shared = [name for name, count in _counts(runs).items() if count > 1]
    alike = {name for name in shared if len({run.last.get(name) for run in runs}) == 1 and name != metric}
    metrics = sorted(set(shared) - alike | {metric}, key=lambda name: (name != metric, _rank(name), name))
    verdict = judge(groups, metric, mode)
    return Comparison(
        runs=tuple(runs),
        groups=groups,
        differences=tuple(differences),
        equal=equal,
        metrics=tuple(metrics),
        equal_metrics=len(alike),
        verdict=verdict,
        notes=(*notes, *_notes(groups, differences, verdict)),
    )


def natural(text: str) -> tuple[int, float, str]:
    """Sort numbers by value and before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _facts(run: ComparedRun) -> dict[tuple[Kind, str], str]:
    found: dict[tuple[Kind, str], str] = {("spec", name): value for name, value in run.params.items()}
    for tag, value in run.tags.items():
        section, _, name = tag.partition(".")
        if section == "reco" and name not in _NO_FACTS:
            kind: Kind = "data" if name in _OF_DATA else "code" if name == "code" else "computed with"
            found[kind, name] = value
    return found


def _groups(
    runs: Sequence[ComparedRun], facts: Sequence[Mapping[tuple[Kind, str], str]], apart: Sequence[str]
) -> tuple[Group, ...]:
    known = sorted({name for each in facts for kind, name in each if kind != "spec"})
    for name in apart:
        if name not in known:
            raise UserError(f"runs have no {name!r} to keep them apart by.", hint=f"They have: {', '.join(known)}.")
    kept_apart = {"dataset_hash", *apart}
    by_content: dict[frozenset[tuple[str, str]], list[ComparedRun]] = {}
    for run, each in zip(runs, facts, strict=True):
        content = ((n, value) for (kind, n), value in each.items() if (kind == "spec" or n in kept_apart) and n != SEED)
        by_content.setdefault(frozenset(content), []).append(run)
    found = list(by_content.values())
    return tuple(Group(label_of(members, found), tuple(members)) for members in found)


def _counts(runs: Sequence[ComparedRun]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for run in runs:
        for name in run.last:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _rank(metric: str) -> int:
    section = metric.partition("/")[0]
    return _ORDER.index(section) if section in _ORDER else len(_ORDER)


def _metric(runs: Sequence[ComparedRun], asked: str | None) -> str:
    counts = _counts(runs)
    if asked is None:
        for least in (2, 1):
            for names in _DEFAULTS:
                # Of its kind the one that most runs have: two judged on test say nothing of ten that were not.
                name = max(names, key=lambda name: counts.get(name, 0))
                if counts.get(name, 0) >= least:
                    return name
        return max(sorted(counts), key=lambda name: counts[name])
    if asked in counts:
        return asked
    near = difflib.get_close_matches(asked, counts, n=1)
    there = ", ".join(sorted(counts, key=lambda name: (_rank(name), name))[:20])
    raise UserError(
        f"none of the runs has the metric {asked!r}.",
        hint=f"Did you mean {near[0]!r}?" if near else f"They have: {there}.",
    )


def _notes(groups: Sequence[Group], differences: Sequence[Difference], verdict: Verdict) -> list[str]:
    metric, notes = verdict.metric, []
    section, _, last = metric.rpartition("/")
    apart = {each.name for each in differences if each.between_groups}
    probe = {"test": ("data.probe.train", "data.probe.test"), "valid": ("data.probe.train", "data.probe.valid")}
    other = sorted(apart & {*probe.get(section, ()), *(["data.probe.k"] if last.startswith("knn") else [])})
    if other:
        notes.append(f"{metric} was not measured in the same way everywhere: {', '.join(other)} differs")
    if metric in LOSS_NAMES and any(name.startswith("method.") for name in apart):
        notes.append(f"{metric} depends on options of the method that differ: the least belongs to no better encoder")
    without = [group.title for group in groups if group not in verdict.ranked]
    if without:
        notes.append(
            f"not ranked, since they have no {metric}: {', '.join(without[:5])}" + ("…" if without[5:] else "")
        )
    for each in differences:
        mixed = [group.title for group, value in zip(groups, each.by_group, strict=True) if ", " in value]
        if each.kind == "code" and mixed:
            notes.append(f"one group, though their code differs: {', '.join(mixed[:5])}; --apart code separates them")
    best = verdict.ranked[0]
    mine = best.summary(metric)
    for name, words in _BASELINES.items():
        baseline = best.summary(f"{section}/{name}")
        if last == "knn" and mine is not None and baseline is not None and baseline.mean >= mine.mean:
            notes.append(f"no less good than the best is {words}: {section}/{name} {baseline}")
    return notes
