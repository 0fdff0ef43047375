"""What the store knows, as the contract's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from jobs.job_folder import Outcome
from service.contract.messages import AttemptView, EventView, RunDetails, RunView, TokenView
from service.runs.access import Token
from service.runs.records import Attempt, Event, Run
from service.runs.schema import JsonObject

Progress = tuple[datetime, JsonObject]
"""When it was new to the leader, and what it said."""


def run_view(run: Run, progress: Progress | None) -> RunView:
    """A run as a list shows it."""
    return RunView.model_validate(_common(run, progress))


def run_details(
    run: Run, attempts: Sequence[Attempt], progress: Progress | None, outcome: Outcome | None
) -> RunDetails:
    """A run with its attempts, and how the last one ended."""
    history = [attempt_view(each) for each in attempts]
    told = None if outcome is None else dict(outcome)
    return RunDetails.model_validate(
        {**_common(run, progress), "spec": run.spec, "history": history, "outcome": told}, from_attributes=True
    )


def attempt_view(attempt: Attempt) -> AttemptView:
    """One job of a run."""
    return AttemptView(
        number=attempt.number,
        submission_id=attempt.submission_id,
        backend=attempt.backend,
        state=attempt.state,
        started=attempt.started,
        ended=attempt.ended,
        cause=None if attempt.cause is None else attempt.cause.value,
        exit_code=attempt.exit_code,
        step=attempt.step,
    )


def event_view(event: Event) -> EventView:
    """Something that happened to a run."""
    return EventView(number=event.number, at=event.at, kind=event.kind, words=event.words, data=event.data)


def token_view(token: Token) -> TokenView:
    """A token without its secret."""
    return TokenView.model_validate(token_fields(token))


def token_fields(token: Token) -> dict[str, object]:
    """What is told of a token."""
    return {name: getattr(token, name) for name in TokenView.model_fields}


def _common(run: Run, progress: Progress | None) -> Mapping[str, object]:
    return {
        "id": run.id,
        "name": run.name,
        "kind": run.kind,
        "project": run.project,
        "owner": run.owner,
        "state": run.state,
        "reason": run.reason,
        "attempts": run.attempts,
        "version": run.version,
        "created": run.created,
        "updated": run.updated,
        "due": run.due,
        "conditions": dict(run.conditions),
        "spec_hash": run.spec_hash,
        "lineage": run.lineage,
        "storage": run.storage,
        "progress": None if progress is None else progress[1],
        "progress_at": None if progress is None else progress[0],
    }
