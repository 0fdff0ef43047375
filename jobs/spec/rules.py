"""Rules that hold between options of different sections, each a small function of the values it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Check = Callable[..., str | None]


@dataclass(frozen=True)
class Rule:
    """One rule: the dotted paths of the options it needs, and a check of their values.

    The check is called with valid values only, in the order of `paths`, and returns what is wrong, or None.
    A broken rule is reported at `path`, the first of them: the option a person would change first.
    """

    paths: tuple[str, ...]
    check: Check

    @property
    def path(self) -> str:
        """Dotted path of the option the rule is reported at."""
        return self.paths[0]


RULES: list[Rule] = []


def rule(*paths: str) -> Callable[[Check], Check]:
    """Add the decorated function to the rules, to be called with the values at `paths`."""

    def add(check: Check) -> Check:
        RULES.append(Rule(paths, check))
        return check

    return add


def broken_rules(
    value: Callable[[str], object], usable: Callable[[str], bool] = lambda path: True, rules: Sequence[Rule] = RULES
) -> list[tuple[Rule, str]]:
    """Return the broken rules with their messages.

    Args:
        value: Gives the value of the option at a dotted path, its default where none was given.
        usable: Tells of a dotted path whether its value is valid; rules that need another are left out.
        rules: Those of a run by default.
    """
    asked = [each for each in rules if all(map(usable, each.paths))]
    answers = [(each, each.check(*map(value, each.paths))) for each in asked]
    return [(each, message) for each, message in answers if message is not None]


@rule("scale.workers", "method.groups")
def _workers_divide_groups(workers: int, groups: int) -> str | None:
    if groups % workers == 0:
        return None
    return (
        f"{workers} workers cannot share method.groups {groups} equally; {groups} is divisible by {_divisors(groups)}"
    )


@rule("scale.min_workers", "scale.workers")
def _fewest_are_not_more(min_workers: int | None, workers: int) -> str | None:
    if min_workers is None or min_workers <= workers:
        return None
    return f"{min_workers} is more than scale.workers {workers}"


@rule("data.lanes", "method.groups")
def _groups_divide_lanes(lanes: int | None, groups: int) -> str | None:
    if lanes is None or lanes % groups == 0:
        return None
    return f"{lanes} is not divisible by method.groups {groups}; {_nearest(lanes, groups)}"


@rule("train.global_batch_size", "data.lanes", "method.groups")
def _lanes_divide_batch(batch: int, lanes: int | None, groups: int) -> str | None:
    name, number = ("method.groups", groups) if lanes is None else ("data.lanes", lanes)
    if batch % number == 0:
        return None
    return f"{batch} is not divisible by {name} {number}; {_nearest(batch, number, 2 * groups)}"


@rule("train.global_batch_size", "method.groups")
def _a_group_has_two_pictures(batch: int, groups: int) -> str | None:
    if batch // groups >= 2 or batch % groups:
        return None
    return f"{batch} over method.groups {groups} leaves 1 picture per group; batch statistics need 2, so {2 * groups}"


@rule("method.queue_size", "train.global_batch_size")
def _queue_holds_a_batch(queue_size: int, batch: int) -> str | None:
    if queue_size >= batch:
        return None
    return f"{queue_size} is smaller than train.global_batch_size {batch}; the queue must hold at least one batch"


@rule(
    "method.global_relation.teacher_temperature",
    "method.global_relation.student_temperature",
    "method.global_relation.weight",
)
def _teacher_is_sharper(teacher_temperature: float, student_temperature: float, weight: float) -> str | None:
    if weight == 0 or teacher_temperature < student_temperature:
        return None
    return (
        f"{teacher_temperature:g} is not below method.global_relation.student_temperature {student_temperature:g}; "
        "the teacher's distribution must be the sharper one"
    )


@rule("train.warmup_epochs", "train.epochs")
def _warmup_ends_in_time(warmup_epochs: int, epochs: int) -> str | None:
    if warmup_epochs <= epochs:
        return None
    return f"{warmup_epochs} is more than train.epochs {epochs}"


@rule("views.crop_scale")
def _crop_scale_is_ordered(crop_scale: tuple[float, float]) -> str | None:
    low, high = crop_scale
    return None if low <= high else f"[{low}, {high}] is the wrong way round; the smallest comes first: [{high}, {low}]"


def _nearest(number: int, divisor: int, least: int = 1) -> str:
    below = number // divisor * divisor
    if below >= max(least, 1):
        return f"the nearest that are: {below}, {below + divisor}"
    return f"the nearest that is: {-(-max(number, least) // divisor) * divisor}"


def _divisors(number: int) -> str:
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)
