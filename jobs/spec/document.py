"""YAML text → plain values, the place each was written at, and the mistakes of the text itself; `--set` on top.

YAML 1.2's core types are read, not 1.1's: `5e-4` is a number, `no` is a text, `1:30` and `2026-01-01` are texts.
The nodes are walked here, not by PyYAML's constructors: those drop the lines and let a repeated key win silently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = ("", "~", "null", "Null", "NULL")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a spec.

    Attributes:
        path: Dotted path of the option (`data.train[2]` for an item of a list); empty where the whole text is meant.
        line: Line of the file, counted from 1; None where the option does not come from the file.
        message: What was given and what is allowed.
        override: The `--set` the option comes from, or None.
    """

    path: str
    line: int | None
    message: str
    override: str | None = None

    def __str__(self) -> str:
        place = f"--set {self.override}: " if self.override is not None else f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.message}" if self.path else place + self.message


@dataclass(frozen=True)
class Place:
    """Where a value was written: a line of the file, or an override."""

    line: int | None = None
    override: str | None = None

    def mistake(self, path: Path, message: str) -> Mistake:
        """Return a mistake at this place."""
        return Mistake(dotted(path), self.line, message, self.override)


@dataclass
class Document:
    """The values of a spec with the places they come from, and what is wrong with the text.

    Attributes:
        readable: Whether the text is YAML with sections at the top, so that its values can be judged at all.
    """

    readable: bool = False
    values: dict[str, Value] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Return the place of the value at `path`, or of the nearest section above it that was written down."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place())


class _Refused(Exception):  # noqa: N818  (not an error of its own: it carries one mistake out of the parser)
    """YAML that PyYAML accepts and a spec does not."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class _Loader(yaml.SafeLoader):
    """Composes nodes only; without aliases, so that a text cannot grow when it is read, and without tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"`*{event.anchor}`: anchors and aliases are not read; write the value out", line)
        if getattr(event, "tag", None):
            raise _Refused(f"`{event.tag}`: tags are not read; leave it out", line)
        return super().compose_node(parent, index)


def read_document(text: str) -> Document:
    """Read a spec; whatever is wrong with the text itself is among the document's mistakes."""
    document = Document()
    node = _compose(text, document)
    if node is None:
        if not document.mistakes:
            document.mistakes.append(Mistake("", None, "the spec is empty; `reco spec explain` lists what it may hold"))
        return document
    value = _value(node, (), document, Place(_line(node)))
    if isinstance(value, dict):
        document.values = value
        document.readable = True
    elif not document.mistakes:
        message = f"must be sections such as `data:` and `encoder:`, not {shown(value)}"
        document.mistakes.append(Mistake("", _line(node), message))
    return document


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Put `a.b=value` on top of a document, in order; values are YAML, missing sections are created."""
    for override in overrides:
        name, equals, text = override.partition("=")
        place = Place(override=override)
        keys = tuple(name.strip().split("."))
        if not equals or not all(keys):
            document.mistakes.append(place.mistake((), "must be written as path=value, for example train.epochs=100"))
            continue
        inner = Document()
        node = _compose(text, inner)
        if inner.mistakes:
            document.mistakes += [place.mistake(keys, each.message) for each in inner.mistakes]
            continue
        _set(document, keys, node, place)


def plain(text: str) -> bool | int | float | str | None:
    """Return what a scalar without quotes stands for, by the core types of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) <= 400:  # Python refuses to convert thousands of digits, and no option needs them
        if _INT.fullmatch(text):
            return int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def dotted(path: Path) -> str:
    """Write a path as people do: `data.train[2]`."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).removeprefix(".")


def shown(value: object) -> str:
    """Write a given value as it would stand in YAML, shortened; texts in quotes, so that "3" is not taken for 3."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case "":
            return "an empty text"
        case []:
            return "an empty list"
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}…"'
        case dict():
            return f"a section with {', '.join(map(str, value))}" if value else "an empty section"
        case list() | tuple():
            items = ", ".join(map(shown, value))
            return f"[{items}]" if len(items) <= 60 else f"a list of {len(value)}"
        case _:
            return str(value)


def _set(document: Document, keys: tuple[str, ...], node: yaml.Node | None, place: Place) -> None:
    section = document.values
    for depth, key in enumerate(keys[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
            document.places[keys[:depth]] = place
        below = section[key]
        if not isinstance(below, dict):
            message = f"cannot be set, for {dotted(keys[:depth])} is {shown(below)} and not a section"
            document.mistakes.append(place.mistake(keys, message))
            return
        section = below
    for path in [path for path in document.places if path[: len(keys)] == keys]:
        del document.places[path]
    document.places[keys] = place
    section[keys[-1]] = None if node is None else _value(node, keys, document, place)


def _compose(text: str, document: Document) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except _Refused as refused:
        document.mistakes.append(Mistake("", refused.line, refused.message))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        document.mistakes.append(Mistake("", line, _syntax(text, line, error)))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = f"U+{ord(text[error.position]):04X}"
        document.mistakes.append(Mistake("", line, f"not YAML: the character {code} may not stand in a text file"))
    except RecursionError:
        document.mistakes.append(Mistake("", None, "not a spec: the text is nested too deeply"))
    return None


def _syntax(text: str, line: int | None, error: yaml.MarkedYAMLError) -> str:
    lines = text.splitlines()
    written = lines[line - 1] if line is not None and line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())] or "'\\t'" in (error.problem or ""):
        return "not YAML: a tab is used for indentation; use spaces"
    if "single document" in (error.context or ""):
        return "holds a second document; a spec is one document"
    return "not YAML: " + "; ".join(each for each in (error.problem, error.context) if each)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _value(node: yaml.Node, path: Path, document: Document, place: Place) -> Value:
    """Return the value of `node` and note its place; an override's place covers all that it holds."""
    document.places[path] = place
    if isinstance(node, yaml.ScalarNode):
        return str(node.value) if node.style is not None else plain(str(node.value))
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*path, i), document, _inner(each, place)) for i, each in enumerate(node.value)]
    section: dict[str, Value] = {}
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        inner = _inner(key_node, place)
        if not isinstance(key_node, yaml.ScalarNode):
            document.mistakes.append(inner.mistake(path, "a key must be a plain name"))
            continue
        key = str(key_node.value)
        if key in section:
            message = "is given twice"
            if inner.line is not None:
                message += f", on line {first[key]} and on line {inner.line}; keep one"
            document.mistakes.append(inner.mistake((*path, key), message))
            continue
        first[key] = _line(key_node)
        section[key] = _value(value_node, (*path, key), document, inner)
    return section


def _inner(node: yaml.Node, place: Place) -> Place:
    return place if place.override is not None else Place(_line(node))
