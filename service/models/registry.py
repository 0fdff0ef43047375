"""Moves the alias `champion`: through the gates, with a reason, written down before it happens."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.errors import RecoError, UserError
from jobs.tracking.client import client, explained
from jobs.tracking.history import Entry, History, undone
from jobs.tracking.models import CANDIDATE, CHAMPION, find_model
from service.child import python

if TYPE_CHECKING:
    from collections.abc import Sequence

MARGIN = 0.5
"""How many points worse than the champion an encoder may be, unless somebody says otherwise."""


_LONGEST_S = 1500.0
"""Longest that gates may take: less than a client of the API waits for its answer."""


class RefusedError(RecoError):
    """A gate did not let an encoder pass."""


@dataclass(frozen=True)
class Changed:
    """A champion that was changed.

    Attributes:
        model: Registered model.
        entry: What the history says of it.
        checks: What each gate said.
    """

    model: str
    entry: Entry
    checks: tuple[str, ...]


def promote(
    reference: str,
    *,
    reason: str,
    who: str,
    uri: str,
    margin: float = MARGIN,
    say: Callable[[str], None] = lambda _: None,
) -> Changed:
    """Make an encoder the champion of its model, if every gate lets it pass.

    Args:
        reference: `name/version`, `name@alias`, or `name` for its candidate.
        reason: Why; kept in the history.
        who: Who says so.
        uri: Address of the tracking server.
        margin: How many points worse than the champion it may be, on the same probe.
        say: Told what is going on.

    Raises:
        RefusedError: A gate did not let it pass; nothing was changed.
        OvertakenError: Somebody else changed the champion meanwhile; nothing was changed.
        UserError: There is no reason, it is the champion already, or no such encoder.
        TrackingError: The server did not answer or refused.
    """
    if not reason.strip():
        raise UserError("a promotion needs a reason.", hint='Say why: --reason "…"; the history keeps it.')
    version = find_model(reference if "@" in reference or "/" in reference else f"{reference}@{CANDIDATE}", uri)
    history = History(version.name, uri)
    entries = settle(history, uri, say)
    champion = entries[-1].version if entries else 0
    if champion == version.version:
        raise UserError(f"{version.reference} is the champion already.")
    checks = run_gates(version.reference, f"{version.name}/{champion}" if champion else None, margin, uri)
    entry = Entry("promote", version.version, champion, reason.strip(), who, checks=tuple(checks))
    return _carry_out(history, entry, entries, uri)


def rollback(name: str, *, reason: str, who: str, uri: str, say: Callable[[str], None] = lambda _: None) -> Changed:
    """Make the champion before the last change the champion again, if it is still whole.

    Args:
        name: Registered model.
        reason: Why; kept in the history.
        who: Who says so.
        uri: Address of the tracking server.
        say: Told what is going on.

    Raises:
        RefusedError: That version is damaged, or computes something else than it did; nothing was changed.
        OvertakenError: Somebody else changed the champion meanwhile; nothing was changed.
        UserError: There is nothing to go back to.
        TrackingError: The server did not answer or refused.
    """
    find_model(name, uri)  # says what there is where there is no such model
    history = History(name, uri)
    entries = settle(history, uri, say)
    before = undone(entries)
    if before is None:
        raise UserError(
            f"there is no champion of {name} to go back to.", hint=f"`reco models history {name}` shows all there was."
        )
    version = find_model(f"{name}/{before}", uri)
    checks = run_gates(version.reference, None, MARGIN, uri)
    entry = Entry("rollback", before, entries[-1].version, reason.strip(), who, checks=tuple(checks))
    return _carry_out(history, entry, entries, uri)


def settle(history: History, uri: str, say: Callable[[str], None]) -> list[Entry]:
    """Make alias and history agree, and return the history.

    A process that ended between the two leaves the alias behind: it is moved. An alias that something else has moved
    afterwards is written down as it is.

    Raises:
        TrackingError: The server did not answer or refused.
    """
    entries = history.entries()
    alias = champion_of(history.model, uri)
    last = entries[-1] if entries else None
    if alias == (last.version if last else 0):
        return entries
    if last is not None and alias == last.previous and not history.made(len(entries)):
        say(f"the last change of {history.model} was written down, but not made: making it now")
        _point(history.model, last.version, uri)
        history.note_made(len(entries))
        return entries
    say(f"the champion of {history.model} was changed by something else than `reco`; the history notes it")
    found = Entry("outside", alias, last.version if last else 0, "found so", "unknown")
    history.append(found, after=len(entries))
    history.note_made(len(entries) + 1)
    return [*entries, found]


def run_gates(candidate: str, champion: str | None, margin: float, uri: str) -> list[str]:
    """What each gate says of an encoder, in a line.

    Raises:
        RefusedError: One of them does not let it pass.
        RecoError: They could not be asked.
    """
    command = python("jobs.gate", candidate, "--margin", str(margin))
    # Not among the arguments, which every user of the machine may read: the address may hold a password.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    try:
        ran = subprocess.run(
            [*command, *(["--against", champion] if champion else [])],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RecoError(
            f"the gates have said nothing for {_LONGEST_S / 60:.0f} minutes.",
            hint="Nothing was changed. Are MLflow and the storage of its encoders reachable?",
        ) from error
    lines = ran.stdout.splitlines()
    if not lines:
        raise RecoError(
            f"the gates could not be asked: {(ran.stderr.splitlines() or ['no output'])[-1]}",
            hint="Nothing was changed.",
        )
    checks = json.loads(lines[-1])
    refused = [check["words"] for check in checks if not check["passed"]]
    if refused:
        raise RefusedError(f"{candidate} does not pass: {_joined(refused)}", hint="The champion stays as it is.")
    return [f"{check['name']}: {check['words']}" for check in checks]


def _carry_out(history: History, entry: Entry, entries: Sequence[Entry], uri: str) -> Changed:
    history.append(entry, after=len(entries))
    _point(history.model, entry.version, uri)
    history.note_made(len(entries) + 1)
    newest = history.entries()[-1]
    if newest != entry:  # somebody was next so soon that this alias may have been set over theirs
        _point(history.model, newest.version, uri)
    return Changed(history.model, entry, entry.checks)


def champion_of(model: str, uri: str) -> int:
    """The version that the alias points to; 0 for none."""
    with explained(f"read the aliases of {model}", uri):
        return int(client(uri).get_registered_model(model).aliases.get(CHAMPION, 0))


def _point(model: str, version: int, uri: str) -> None:
    with explained(f"set the alias {CHAMPION} of {model}", uri):
        client(uri).set_registered_model_alias(model, CHAMPION, str(version))


def _joined(words: Sequence[str]) -> str:
    return "; ".join(each.rstrip(".") for each in words) + "."
