"""How a stack looks: its parts while they come up and go down, and what to know when they are up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.text import Text

from service.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from service.stack.layout import Layout
    from service.stack.record import PartRecord, StackRecord

TITLES = {"mlflow": "MLflow", "s3": "S3", "ray": "Ray", "leader": "leader", "api": "API, pages"}
"""What a part is called in front of people."""
_MARKS = {"up": "✓", "failed": "✗", "restarting": "!", "stopped": "·", "waiting": "·"}


class Shown:
    """The parts as a live table in a terminal, or as a line for every change where there is none."""

    def __init__(self) -> None:
        self._console = output.progress()
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, record: StackRecord) -> None:
        """Show how it is now."""
        if self._console.is_terminal:
            self._live.update(_table(record))
            return
        now = {TITLES.get(name, name): _state(each) for name, each in record.parts.items()}
        now |= {"": record.words} if record.words else {}
        for name, words in now.items():
            if self._told.get(name) != words:
                output.note(f"{name:<12} {words}".strip())
        self._told = now


def _table(record: StackRecord) -> Table:
    table = output.table("", "part", "state", "where")
    for name, each in record.parts.items():
        mark = _mark(each)
        cells = [mark, TITLES.get(name, name), _state(each), each.url if each.state == "up" else ""]
        table.add_row(*(Text(cell, style=output.STYLES.get(mark, "")) for cell in cells))
    if record.words:
        table.caption = Text(record.words)
    return table


def _mark(part: PartRecord) -> str:
    return "!" if part.state == "up" and part.words else _MARKS.get(part.state, "…")


def _state(part: PartRecord) -> str:
    """In words."""
    if part.state == "up":
        return f"up, but {part.words}" if part.words else "up"
    if part.state == "restarting":
        return f"died ({part.restarts} in a row) and is started again: {part.words}"
    return f"{part.state}: {part.words}" if part.words else part.state


def tell(record: StackRecord, layout: Layout, *, as_json: bool) -> None:
    """Say how the stack is, and how to use it."""
    if as_json:
        parts = [{"name": name, **each.model_dump(mode="json")} for name, each in record.parts.items()]
        files = {"token": layout.token, "environment": layout.exports, "logs": layout.log("").parent}
        told = {"well": is_well(record), "phase": record.phase, "supervised": record.supervised, "parts": parts}
        output.emit(told | {name: str(path) for name, path in files.items()} | {"problem": record.problem})
        return
    if record.phase == "down":
        output.say("The service is not running; `reco up` starts it")
        if record.problem:
            output.say(f"! the last time it could not be started: {record.problem}")
        return
    if not record.supervised:
        output.say("✗ its supervisor was killed, or the machine was started anew; `reco up` takes up what still runs")
    for name, each in record.parts.items():
        alive = each.process is None or each.process.alive
        words = _state(each) if alive else "gone"
        mark = _mark(each) if alive else "✗"
        output.say(f"{mark} {TITLES.get(name, name):<12} {each.url if words == 'up' and each.url else words}")
        if words != "up":
            output.say(f"  {'':<12} log {each.log}")
    rows = {"logs": layout.log("").parent, "token": f"{layout.token} (administrator)"}
    rows |= {"dashboard": f"asks for the token in {layout.folder / 'ray-token'}"} if "ray" in record.parts else {}
    for name, value in rows.items():
        output.say(f"  {name:<12} {value}")
    output.say(f"  {'use it':<12} . {layout.exports}")


def is_well(record: StackRecord) -> bool:
    """Whether every part is up, answers, and is looked after."""
    # Words of one that is up say what is wrong: that it does not answer any more.
    up = [
        each.state == "up" and not each.words and (each.process is None or each.process.alive)
        for each in record.parts.values()
    ]
    return record.phase == "running" and record.supervised and bool(up) and all(up)
