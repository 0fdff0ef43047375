"""The space of a sweep: which options of a run are varied, over what, and which values of them make no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ValidationError, model_serializer, model_validator

from jobs.spec.describe import closest, options
from jobs.spec.document import shown
from jobs.spec.models import OUTSIDE_THE_HASH, RunSpec, Section

Kind = Literal["loguniform", "uniform", "quniform", "choice", "grid"]
Scalar = None | bool | int | float | str
Values = Mapping[str, Any]
"""Options by dotted path, with what each is set to."""

_FORMS: dict[Kind, str] = {
    "loguniform": "{loguniform: [low, high]}",
    "uniform": "{uniform: [low, high]}",
    "quniform": "{quniform: [low, high, step]}",
    "choice": "{choice: [one, another]}",
    "grid": "{grid: [one, another]}",
}
_FIXED = {
    **{
        path if inside is True else f"{path}.{each}": "it changes how a run is carried out and kept, not what it gives"
        for path, inside in OUTSIDE_THE_HASH.items()
        for each in ([path] if inside is True else inside)
    },
    "data.probe": "trials that are judged on different pictures cannot be compared",
    "train.seed": "`seeds` says how many of them a configuration is trained with",
    "train.epochs": "`budget.epochs` says how long a trial is",
    "train.probe_every": "trials are judged at the rungs of the scheduler",
}


class Dimension(Section):
    """What one option is varied over.

    Attributes:
        kind: How values are drawn.
        low: Smallest value; of a range only.
        high: Largest value; of a range only.
        step: Distance of two values; of a quniform range only.
        values: The values of a choice or a grid.
    """

    kind: Kind
    low: int | float = 0
    high: int | float = 0
    step: int | float = 0
    values: tuple[Any, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: object) -> object:
        if not isinstance(given, dict) or len(given) != 1:
            raise ValueError(f"must be one of {', '.join(_FORMS.values())}; {shown(given)} is given")
        ((kind, content),) = given.items()
        if kind not in _FORMS:
            near = closest(str(kind), _FORMS)
            meant = f"; did you mean `{near}`?" if near else ""
            raise ValueError(f"must be one of {', '.join(_FORMS.values())}; `{kind}` is given{meant}")
        if kind in ("choice", "grid"):
            if not isinstance(content, list | tuple) or not content:
                raise ValueError(f"must be {_FORMS[kind]}, with at least one value; {shown(content)} is given")
            if any(content.count(each) > 1 for each in content):
                raise ValueError(f"holds a value twice: {shown(content)}")
            return {"kind": kind, "values": tuple(content)}
        wanted = 3 if kind == "quniform" else 2
        numbers = isinstance(content, list | tuple) and all(
            isinstance(each, int | float) and not isinstance(each, bool) for each in content
        )
        if not numbers or len(content) != wanted:
            raise ValueError(f"must be {_FORMS[kind]}, in numbers; {shown(content)} is given")
        low, high, *step = content
        if low >= high:
            raise ValueError(f"{low} is not below {high}")
        if kind == "loguniform" and low <= 0:
            raise ValueError(f"a loguniform range must be above 0; it begins at {low}")
        if step and (step[0] <= 0 or step[0] > high - low):
            raise ValueError(f"the step {step[0]} is not between 0 and {high} - {low}")
        return {"kind": kind, "low": low, "high": high, **({"step": step[0]} if step else {})}

    @model_serializer
    def _write(self) -> dict[str, list[Any]]:
        if self.values:
            return {self.kind: list(self.values)}
        return {self.kind: [self.low, self.high, *([self.step] if self.step else [])]}

    @property
    def examples(self) -> tuple[Any, ...]:
        """All of its values, or the smallest, the largest and one between where they cannot be counted."""
        return self.listed or (self.low, self.high, self.low + (self.high - self.low) * 0.6180339887)

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """All of its values in order; None where they cannot be counted."""
        if self.values:
            return self.values
        if not self.step:
            return None
        number = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + place * self.step for place in range(number))

    @classmethod
    def loguniform(cls, low: float, high: float) -> Self:
        """Between two numbers, each factor as likely as every other."""
        return cls.model_validate({"loguniform": [low, high]})


RECO_SPACE: dict[str, Dimension] = {
    "method.global_relation.weight": Dimension.loguniform(0.25, 4.0),
    "method.local_relation.weight": Dimension.loguniform(0.25, 4.0),
    "method.temperature": Dimension.loguniform(0.05, 0.5),
    "method.global_relation.student_temperature": Dimension.loguniform(0.05, 0.3),
    "method.global_relation.teacher_temperature": Dimension.loguniform(0.02, 0.1),
}
"""ReCo's two weights and three temperatures (section 3 of the paper), the published values near the middle."""


def with_values(spec: RunSpec, values: Values) -> RunSpec:
    """A spec with some of its options set.

    Args:
        spec: The others.
        values: Each a valid option's path.

    Raises:
        ValidationError: A value is not allowed, or breaks a rule together with others.
    """
    content = spec.model_dump(mode="json")
    for path, value in values.items():
        *sections, name = path.split(".")
        section = content
        for each in sections:
            section = section[each]
        section[name] = value
    return RunSpec.model_validate(content)


def why_not(spec: RunSpec, values: Values) -> str | None:
    """What stands against a spec with these values, in words; None where nothing does."""
    try:
        with_values(spec, values)
    except ValidationError as error:
        return "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors(include_url=False))
    return None


def space_mistakes(base: RunSpec, space: Mapping[str, Dimension]) -> dict[str, str]:
    """What is wrong with a space for a given base, by path: unknown options, those that may not vary, bad values."""
    known = {each.path: each for each in options()}
    found: dict[str, str] = {}
    for path, dimension in space.items():
        option = known.get(path)
        if option is None:
            leaf = path.rpartition(".")[2]
            same = [each for each in known if each.rpartition(".")[2] == leaf]
            near = " or ".join(f"`{each}`" for each in same) or closest(path, known)
            hint = f"; did you mean {near}?" if near else "; `reco spec explain` lists them"
            found[path] = f"a run has no such option{hint}"
        elif (reason := _why_fixed(path)) is not None:
            found[path] = f"cannot be varied: {reason}"
        elif option.section is not None:
            inside = ", ".join(each for each in known if each.rpartition(".")[0] == path)
            found[path] = f"is a section; vary one of {inside}"
        else:
            refused = [value for value in dimension.examples if not _is_allowed(base, path, value)]
            if refused:
                found[path] = f"must be {option.allowed}; {', '.join(map(shown, refused))} is in the space"
    return found


def _why_fixed(path: str) -> str | None:
    return next((why for fixed, why in _FIXED.items() if path == fixed or path.startswith(f"{fixed}.")), None)


def _is_allowed(base: RunSpec, path: str, value: object) -> bool:
    """Whether an option may have a value, whatever the others have."""
    try:
        with_values(base, {path: value})
    except ValidationError as error:
        # A rule between options has no location; the others may be varied too.
        return not any(each["loc"] for each in error.errors())
    return True
