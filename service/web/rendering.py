"""Templates to pages: the one environment, with what every page may use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jobs.tracking.comparison import ABSENT
from service.runs.states import Condition, State
from service.web import words

_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("step", "total_steps", "epoch", "epochs", "pictures_per_s", "data_wait"), float),
    **dict.fromkeys(("memory_gb", "eta_s"), float),
    **dict.fromkeys(("metrics", "results"), dict),
}
"""Of what is no text."""

HERE = Path(__file__).parent
STATIC = HERE / "static"
HEADERS = {"Cache-Control": "no-store"}
"""Pages show what a token may see: no cache keeps them. The API's frame adds what browsers are to refuse."""


class Told(dict[str, object]):
    """What a run's folder said: any part may be missing, and none is believed to be of its kind.

    Jobs write it, and their code is their owner's. One that says nonsense is shown without it, and does not take the
    list of all runs with it.
    """

    def __missing__(self, name: str) -> None:
        return None

    @classmethod
    def of(cls, said: Mapping[str, object] | None) -> Told:
        """The parts that a template can rely on."""
        return cls({name: value for name, value in (said or {}).items() if _is(_KINDS.get(name, str), value)})


@functools.cache
def environment() -> Environment:
    """The templates; everything they print is escaped, and a name that is not there is a mistake."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "count": words.count,
        "duration": words.duration,
        "figure": words.figure,
        "knn": words.knn,
        "moment": words.moment,
        "percent": words.percent,
        "size": words.size,
        "ticks": words.ticks,
        "told": Told.of,
    }
    found.globals |= {
        "ABSENT": ABSENT,
        "CONDITION_WORDS": words.CONDITION_WORDS,
        "STATE_WORDS": words.STATE_WORDS,
        "conditions": list(Condition),
        "is_healthy": words.is_healthy,
        "states": list(State),
    }
    return found


def page(request: Request, template: str, /, *, status: int = 200, **values: object) -> HTMLResponse:
    """Render a template.

    Args:
        request: It is for.
        template: Its name.
        status: Of the answer.
        values: For the template; `visit` is who looks at it, where somebody is logged in.
    """
    known = {"visit": None, "problem": None, "hint": None, "path": request.url.path, **values}
    return HTMLResponse(environment().get_template(template).render(known), status, HEADERS)


def _is(kind: type, value: object) -> bool:
    if kind is float:
        return words.is_number(value) and value >= 0
    return isinstance(value, kind)
