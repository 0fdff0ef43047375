"""Which runs somebody wants to see: the same for the store, the contract, commands and pages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from service.runs.states import Condition, Kind, State


@dataclass(frozen=True)
class Wanted:
    """Which runs to list; what is not given does not matter, and deleted ones are never among them.

    Attributes:
        states: One of these.
        kind: Runs or sweeps.
        name: A pattern for the whole name, of any case: `*` is anything, `?` one character.
        project: Of this project.
        owner: Of this owner.
        condition: This holds.
    """

    states: Collection[State] = ()
    kind: Kind | None = None
    name: str | None = None
    project: str | None = None
    owner: str | None = None
    condition: Condition | None = None
