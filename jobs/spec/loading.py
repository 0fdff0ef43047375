"""Spec file and `--set` overrides → `RunSpec`, or every mistake at once."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import UserError
from jobs.spec.describe import Option, closest, options
from jobs.spec.document import Document, Mistake, Path, apply_overrides, dotted, plain, read_document, shown
from jobs.spec.models import RunSpec
from jobs.spec.rules import RULES, Rule, broken_rules

Model = TypeVar("Model", bound=BaseModel)


class SpecError(UserError):
    """A spec that cannot be run.

    Attributes:
        source: The file, or whatever the spec was called.
        mistakes: All that is wrong with it, in the order of the file, overrides last.
    """

    def __init__(self, source: str, mistakes: Sequence[Mistake]) -> None:
        self.source = source
        self.mistakes = list(mistakes)
        many = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("\n".join([f"{source} has {many}:", *(f"  {each}" for each in self.mistakes)]))


def load_spec(path: pathlib.Path, overrides: Sequence[str] = ()) -> RunSpec:
    """Load a spec file, with `--set` overrides (`a.b=value`, the value in YAML) on top.

    Raises:
        SpecError: With every mistake of the file and the overrides.
    """
    return parse_spec(read_text(path), overrides, source=str(path))


def read_text(path: pathlib.Path) -> str:
    """Read the text of a spec file.

    Raises:
        SpecError: There is no such file, or it is no text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as cause:
        near = closest(path.name, (each.name for each in path.parent.glob("*.y*ml")))
        message = "no such file" + (f"; did you mean `{path.parent / near}`?" if near else "")
        raise SpecError(str(path), [Mistake("", None, message)]) from cause
    except UnicodeDecodeError as cause:
        line = cause.object.count(b"\n", 0, cause.start) + 1
        raise SpecError(str(path), [Mistake("", line, "not text in UTF-8; save the file in that encoding")]) from cause
    except OSError as cause:
        reason = (cause.strerror or type(cause).__name__).lower()
        raise SpecError(str(path), [Mistake("", None, f"cannot be read: {reason}")]) from cause


def parse_spec(text: str, overrides: Sequence[str] = (), source: str = "spec") -> RunSpec:
    """Read a spec from YAML text, with overrides on top.

    Args:
        text: The YAML.
        overrides: `a.b=value` each, applied in order.
        source: What to call the spec in the error.

    Raises:
        SpecError: With every mistake of the text and the overrides.
    """
    return parse(RunSpec, text, overrides, source, rules=RULES)[0]


def parse(
    model: type[Model], text: str, overrides: Sequence[str], source: str, *, rules: Sequence[Rule] = ()
) -> tuple[Model, Document]:
    """Read a document of any model, with rules between its options; as `parse_spec`.

    Returns:
        The model, and the document it was read from, to find the place of a mistake that is met later.
    """
    document = read_document(text)
    apply_overrides(document, overrides)
    made: Model | None = None
    mistakes = list(document.mistakes)
    if document.readable:
        made, wrong = _validate(model, document, rules)
        mistakes += wrong
    if mistakes or made is None:
        turns = {override: turn for turn, override in enumerate(overrides, start=1)}
        raise SpecError(source, sorted(mistakes, key=lambda each: (turns.get(each.override or "", 0), each.line or 0)))
    return made, document


def to_yaml(spec: BaseModel) -> str:
    """Write a spec as YAML that loads to an equal one, every default spelled out."""
    return yaml.dump(spec.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that the reader here would take for something else: PyYAML quotes by 1.1, where 1e5 is a text."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    doubtful = not isinstance(plain(text), str) or not text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if doubtful else None)


_Dumper.add_representer(str, _text)


def _validate(model: type[Model], document: Document, rules: Sequence[Rule]) -> tuple[Model | None, list[Mistake]]:
    """Judge the values of a document: each option by its model, and each rule whose options are valid."""
    try:
        return model.model_validate(document.values), []
    except ValidationError as cause:
        # The rules' own error has no location; they are asked again below, one by one, so that each gets its line.
        errors = [each for each in cause.errors(include_url=False, include_context=False) if each["loc"]]
    known = {each.path: each for each in options(model)}
    mistakes, doubtful = _option_mistakes(document, errors, known)

    def usable(path: str) -> bool:
        return not any(path == each or path.startswith(f"{each}.") for each in doubtful)

    def value(path: str) -> object:
        return _value_at(document.values, tuple(path.split(".")), known[path].default)

    for rule, message in broken_rules(value, usable, rules):
        written = [path for path in rule.paths if tuple(path.split(".")) in document.places]
        place = document.place(tuple((written or rule.paths)[0].split(".")))
        mistakes.append(Mistake(rule.path, place.line, message, place.override))
    return None, mistakes


def _option_mistakes(
    document: Document, errors: Sequence[ErrorDetails], known: Mapping[str, Option]
) -> tuple[list[Mistake], set[str]]:
    """Put pydantic's errors into words, one for each option.

    Returns:
        The mistakes, and the dotted paths of the options whose values cannot be relied on.
    """
    messages: dict[Path, str] = {}
    meant: set[Path] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            messages[error["loc"]], near = _unknown(error["loc"], known)
            meant |= {near} if near else set()
            continue
        if error["type"] == "value_error":  # the model's own words
            messages[error["loc"]] = error["msg"].removeprefix("Value error, ")
            continue
        path, below = _split(error["loc"], known)
        if error["type"] == "missing" and not below:
            messages.setdefault(path, f"is missing; must be {_must(known[dotted(path)])}")
        else:
            value = _value_at(document.values, path)
            messages[path] = _refusal(known[dotted(path)], value, error["type"])
            if len(below) == 2 and isinstance(value, list):  # a branch of a union, and an item of the list in it
                item = int(below[1])
                messages[(*path, item)] = _refusal(known[dotted(path)], value[item], error["type"], item=True)
    # One slip is one mistake: a wrong item stands for its list, a misspelt name for the required option it leaves out.
    items = {path[:-1] for path in messages if isinstance(path[-1], int)}
    messages = {path: message for path, message in messages.items() if path not in items | meant}
    doubtful = {dotted(path) for path in messages.keys() | items | meant}
    return [document.place(path).mistake(path, message) for path, message in messages.items()], doubtful


def _split(location: Path, known: Mapping[str, Option]) -> tuple[Path, Path]:
    """Split pydantic's location into the path of an option and what is added below it: a union's branch, an item."""
    end = next(end for end in range(len(location), 0, -1) if dotted(location[:end]) in known)
    return location[:end], location[end:]


def _value_at(values: object, path: Path, default: object = None) -> object:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return default
        values = values[key]
    return values


def _must(option: Option, *, item: bool = False) -> str:
    if item:
        return option.allowed.partition(" or a list of")[0]
    return f"one of {option.allowed}" if len(option.choices) > 1 else option.allowed


def _refusal(option: Option, value: object, error_type: str, *, item: bool = False) -> str:
    message = f"must be {_must(option, item=item)}; {shown(value)} is given"
    if isinstance(value, str):
        near = closest(value, option.choices)
        if near:
            return f"{message}; did you mean `{near}`?"
        if error_type in ("int_type", "float_type", "bool_type") and not isinstance(plain(value), str):
            return f"{message}; leave out the quotes"
    elif error_type == "string_type" and isinstance(value, int | float):
        return f"{message}; put it in quotes"
    return message


def _unknown(path: Path, known: Mapping[str, Option]) -> tuple[str, Path | None]:
    """Return what to say of an unknown key, and the option beside it that was meant, if one was."""
    *parent, key = path
    siblings = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == dotted(tuple(parent))]
    elsewhere = [each for each in known if each.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown here; did you mean {' or '.join(f'`{each}`' for each in elsewhere)}?", None
    near = closest(str(key), siblings)
    if near:
        return f"unknown; did you mean `{near}`?", (*parent, near)
    return f"unknown; allowed here: {', '.join(siblings)}", None
