"""Server-sent events, out of the bytes of an answer (HTML Living Standard, 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Sent:
    """One event of a stream.

    Attributes:
        event: Its kind.
        data: What it holds.
        id: Of the last event that had one, this one included; what a stream can be taken up after.
    """

    event: str
    data: str
    id: str


def sent(parts: Iterable[bytes]) -> Iterator[Sent]:
    """Read a stream; one that breaks off in the middle of an event has not sent it."""
    event, data, last = "", list[str](), ""
    for line in _lines(parts):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Sent(event or "message", "\n".join(data), last)
            event, data = "", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last = value


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    """Lines that end with CR, LF or both. Not `splitlines`, which also ends them where text has U+2028 and the like."""
    rest = b""
    for part in parts:
        rest += part
        held = rest.endswith(b"\r")  # a LF that belongs to it may come with the next part
        whole = rest[:-1] if held else rest
        lines = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest = lines.pop() + (b"\r" if held else b"")
        yield from (line.decode(errors="replace") for line in lines)
