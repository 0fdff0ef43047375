"""Options in words, read from the models themselves: for mistakes, for `reco spec explain` and for suggestions."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.spec.models import RunSpec, Words

NO_DEFAULT = object()
"""Default of an option that must be given."""


@dataclass(frozen=True)
class Option:
    """One option of a spec, or one section of options.

    Attributes:
        path: Dotted path from the top of the spec.
        allowed: Allowed values in words, such as "a whole number from 8 to 1024".
        default: Default value, or `NO_DEFAULT`; for a section, None where it may be left out.
        description: What the option is for, in one sentence.
        section: Model of the section, or None for an option with a value of its own.
        nullable: Whether null is allowed.
        choices: The allowed values where they are a closed list of names, else empty.
    """

    path: str
    allowed: str
    default: object
    description: str
    section: type[BaseModel] | None
    nullable: bool
    choices: tuple[str, ...]

    @property
    def required(self) -> bool:
        """Whether the option must be given."""
        return self.default is NO_DEFAULT

    @property
    def default_text(self) -> str:
        """The default as it would stand in YAML: "required" where there is none, empty for a section with its own."""
        if self.required:
            return "required"
        if isinstance(self.default, str):
            return self.default
        return "" if self.section and not self.nullable else json.dumps(self.default)

    def as_dict(self) -> dict[str, object]:
        """Return the option as plain data, for JSON."""
        told: dict[str, object] = {"path": self.path, "required": self.required}
        if not self.required and (self.section is None or self.nullable):
            told["default"] = self.default
        return told | {"allowed": self.allowed, "description": self.description}


def options(model: type[BaseModel] = RunSpec, prefix: str = "") -> Iterator[Option]:
    """Yield every section and option below `model` in the order of the models, each section before its options."""
    for name, field in model.model_fields.items():
        option = _option(prefix + name, field)
        yield option
        if option.section is not None:
            yield from options(option.section, f"{prefix}{name}.")


def closest(word: str, names: Iterable[str]) -> str | None:
    """Return the name a person most likely meant by `word`, or None where no name is near."""
    known = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return known[matches[0]] if matches else None


def _option(path: str, field: FieldInfo) -> Option:
    default = NO_DEFAULT if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        default = None
    branches, optional = _branches(field.annotation)
    section = next((each for each in branches if isinstance(each, type) and issubclass(each, BaseModel)), None)
    choices = tuple(str(each) for branch in branches if get_origin(branch) is Literal for each in get_args(branch))
    allowed = " or ".join(_words(branch, field.metadata) for branch in branches) + (", or null" if optional else "")
    return Option(path, allowed, default, field.description or "", section, optional, choices)


def _branches(annotation: Any) -> tuple[list[Any], bool]:  # noqa: ANN401  (type annotations have no common type)
    """Split a union into its branches without None, and tell whether None was among them."""
    if get_origin(annotation) in (Union, types.UnionType):
        flat = [branch for each in get_args(annotation) for branch in _branches(each)[0]]
        return flat, any(each is type(None) or _branches(each)[1] for each in get_args(annotation))
    return ([], True) if annotation is type(None) else ([annotation], False)


def _words(annotation: Any, metadata: Iterable[object] = (), *, plural: bool = False) -> str:  # noqa: ANN401  (see `_branches`)
    metadata = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *outer = get_args(annotation)
        metadata += [item for each in outer for item in (each.metadata if isinstance(each, FieldInfo) else [each])]
    for each in metadata:
        if isinstance(each, Words):
            return str(each) if not plural else f"{each.removeprefix('a ')}s"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(str(each) for each in arguments)
    if origin is list:
        return f"a list of {_words(arguments[0], plural=True)}"
    if origin is tuple:
        return f"a list of {len(arguments)} {_words(arguments[0], plural=True)}"
    if annotation is bool:
        return "true or false"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a section with {', '.join(annotation.model_fields)}"
    noun = {int: "whole number", float: "number", str: "text"}[annotation]
    return (f"{noun}s" if plural else f"a {noun}") + _limits(metadata)


def _limits(metadata: Iterable[object]) -> str:
    names = ("ge", "gt", "le", "lt", "multiple_of")
    limits = {name: getattr(each, name) for each in metadata for name in names if hasattr(each, name)}
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below", "multiple_of": "divisible by"}
    parts = [f"from {limits.pop('ge')} to {limits.pop('le')}"] if {"ge", "le"} <= limits.keys() else []
    parts += [f"{words[name]} {limit}" for name, limit in limits.items()]
    return f" {' and '.join(parts)}" if parts else ""
