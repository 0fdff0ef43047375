"""Several processes that do something at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import TypeVar

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
_lines: list[Barrier] = []


def race(act: Callable[[_Given], _Made], given: Sequence[_Given]) -> list[_Made]:
    """What each of several processes makes of what it is given; `act` calls `line_up` when it is ready."""
    context = multiprocessing.get_context("spawn")
    line = context.Barrier(len(given))
    with ProcessPoolExecutor(len(given), mp_context=context, initializer=_take, initargs=(line,)) as pool:
        return list(pool.map(act, given))


def line_up() -> None:
    """Wait for the others."""
    _lines[0].wait(60)


def _take(line: Barrier) -> None:
    _lines.append(line)
