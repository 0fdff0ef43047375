"""What the store of runs refuses, and what can go wrong between it and its database."""

from __future__ import annotations

from jobs.errors import RecoError, UserError
from service.runs.states import Refusal, Signal


class StoreError(RecoError):
    """The database did not do what it was asked."""


class UnknownRunError(StoreError, UserError):
    """There is no run of that id."""


class DeletedRunError(UnknownRunError):
    """The run was deleted: what happened to it is still known, and nothing is left to go on with."""


class RunExistsError(StoreError, UserError):
    """The id of a new run is taken."""


class TransitionError(StoreError, UserError):
    """A run in that state cannot be moved like that.

    Attributes:
        refusal: The state and the signal.
    """

    def __init__(self, run_id: str, refusal: Refusal) -> None:
        hint = f"`reco runs show {run_id}` says what happened to it."
        if not refusal.state.is_final and refusal.signal in (Signal.RESUME, "delete"):
            hint = f"It has not ended: `reco runs stop {run_id}` ends it."
        super().__init__(f"run {run_id}: {refusal}", hint=hint)
        self.refusal = refusal


class ConflictError(StoreError):
    """Somebody else changed it first: look again, and decide anew."""


class NotLeaderError(StoreError):
    """Another process leads: what this one decided must not be written."""


class KeyReusedError(StoreError, UserError):
    """An idempotency key came again with another request."""


class SchemaError(StoreError, UserError):
    """The database was made by another version, or holds something else."""
