"""The service as an abstract class: `service.control` is it, and `service.client` reaches one over HTTP.

Commands and pages are written against these classes only, so that they are the same with and without an API between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from service.contract.messages import (
    ChampionChange,
    Change,
    CheckpointView,
    DatasetView,
    Deleted,
    EventView,
    Identity,
    IssuedToken,
    LogChunk,
    ModelDetails,
    ModelHistory,
    ModelView,
    NewToken,
    Plan,
    Promotion,
    Rollback,
    RunDetails,
    RunPage,
    RunView,
    Submission,
    SweepBoard,
    TokenView,
)
from service.runs.wanted import Wanted as Wanted

NO_CHANGE = Change()
EVERYTHING = Wanted()


class Runs(ABC):
    """Runs and sweeps. Every method raises `UnknownRunError` for a run there is not, and `RecoError`s otherwise."""

    @abstractmethod
    def plan(self, submission: Submission) -> Plan:
        """What would happen if it were submitted; nothing is stored.

        Raises:
            UserError: Its spec has mistakes; all of them are told.
        """

    @abstractmethod
    def submit(self, submission: Submission, *, key: str | None = None) -> RunView:
        """Store a run; the leader starts it.

        Args:
            submission: The run.
            key: Of this request: whoever sends it again with the same key gets the run that was stored the first time.

        Raises:
            UserError: Its spec has mistakes; all of them are told.
            RunExistsError: Its id is taken.
            KeyReusedError: The key came before, with another request.
        """

    @abstractmethod
    def page(self, wanted: Wanted = EVERYTHING, *, after: str | None = None, limit: int = 50) -> RunPage:
        """Runs from the newest to the oldest; deleted ones are left out.

        Args:
            wanted: Which.
            after: The `next` of the page before.
            limit: At most so many.
        """

    @abstractmethod
    def show(self, run_id: str) -> RunDetails:
        """One run."""

    @abstractmethod
    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[EventView]:
        """What happened to a run after the event of that number, in order."""

    @abstractmethod
    def log(self, run_id: str, *, attempt: int | None = None, offset: int = 0) -> LogChunk:
        """What an attempt has printed from an offset on; an empty text says that there is no more for now.

        Args:
            run_id: The run.
            attempt: The last one by default.
            offset: In bytes: 0, or the `next_offset` of the part before.
        """

    @abstractmethod
    def checkpoints(self, run_id: str) -> list[CheckpointView]:
        """What is saved, the newest first."""

    @abstractmethod
    def stop(self, run_id: str) -> RunView:
        """Ask a run to save and stop; asking again changes nothing.

        Raises:
            TransitionError: It has ended.
        """

    @abstractmethod
    def resume(self, run_id: str, change: Change = NO_CHANGE) -> RunView:
        """Let a run that failed or was cancelled go on where it stood, under its id, in its folder and MLflow run.

        Args:
            run_id: The run.
            change: What is to be different; only what leaves the experiment the same may be (`scale`, `checkpoint`, …).

        Raises:
            TransitionError: It has not ended, or has succeeded.
            UserError: The change would make it another experiment: fork it.
        """

    @abstractmethod
    def fork(self, run_id: str, change: Change = NO_CHANGE, *, key: str | None = None) -> RunView:
        """A new run that begins with the weights of another's newest checkpoint; queues, optimizer and step are new.

        Raises:
            UserError: There is no whole checkpoint, or the encoder is another.
        """

    @abstractmethod
    def delete(self, run_id: str) -> Deleted:
        """Delete a run that has ended with its folder: checkpoints, records, logs. What is registered in MLflow stays.

        Raises:
            TransitionError: It has not ended.
        """

    @abstractmethod
    def board(self, run_id: str) -> SweepBoard:
        """The leaderboard of a sweep.

        Raises:
            UserError: It is no sweep.
        """

    @abstractmethod
    def datasets(self, project: str | None = None) -> list[DatasetView]:
        """The data sets that runs were trained on, the last used first."""


class Models(ABC):
    """Registered encoders and their champions."""

    @abstractmethod
    def versions(self) -> list[ModelView]:
        """Every version of every encoder, by name, the newest first."""

    @abstractmethod
    def show(self, reference: str) -> ModelDetails:
        """One version: `name`, `name@alias` or `name/version`."""

    @abstractmethod
    def history(self, name: str) -> ModelHistory:
        """Every change of a model's champion."""

    @abstractmethod
    def promote(self, promotion: Promotion) -> ChampionChange:
        """Make an encoder the champion, if every gate lets it pass.

        Raises:
            RefusedError: A gate did not let it pass; nothing was changed.
            OvertakenError: Somebody else changed the champion meanwhile; nothing was changed.
        """

    @abstractmethod
    def rollback(self, name: str, wish: Rollback) -> ChampionChange:
        """Bring back the champion before the last change.

        Raises:
            RefusedError: It is damaged; nothing was changed.
        """


class Tokens(ABC):
    """Tokens of the API."""

    @abstractmethod
    def issue(self, new: NewToken) -> IssuedToken:
        """Make a token; its secret is told now and never again."""

    @abstractmethod
    def issued(self) -> list[TokenView]:
        """All tokens, the oldest first."""

    @abstractmethod
    def revoke(self, token_id: str) -> bool:
        """End a token for good; False where there is none, or it was ended already."""


@dataclass(frozen=True)
class Service:
    """Everything the service can be asked.

    Attributes:
        where: For a person: the address of the API, or the database.
        caller: Who asks.
    """

    runs: Runs
    models: Models
    tokens: Tokens
    where: str
    caller: Identity
