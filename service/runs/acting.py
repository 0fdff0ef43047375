"""What was decided is done: stored under the leader's lease, and asked of backend and folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime

from jobs.errors import UserError
from jobs.job_folder import JobFolder
from jobs.storage import AccessDeniedError, BucketError, CredentialsError, StorageError
from service.backends.base import BackendError, Job, UnreachableBackendError
from service.runs.answers import Answers
from service.runs.database import Clock
from service.runs.decision import (
    ANSWERS_AGAIN,
    Action,
    AskBackend,
    AskFolder,
    Begin,
    End,
    Note,
    SetCondition,
    Submit,
)
from service.runs.departed import Departed
from service.runs.errors import ConflictError
from service.runs.leadership import Leadership
from service.runs.records import Attempt, Ending, Run
from service.runs.retry import Cause
from service.runs.states import Condition, Signal
from service.runs.store import RunStore

_log = logging.getLogger("reco.leader")

ACTOR = "leader"


class Acting:
    """Carries out actions.

    Args:
        store: The runs.
        answers: Of the backends.
        departed: Is told of attempts that end.
        leadership: What is written is written under it.
        command: The job of an attempt.
        folder: The folder of a run.
        clock: What time it is.
    """

    def __init__(
        self,
        store: RunStore,
        answers: Answers,
        departed: Departed,
        leadership: Leadership,
        command: Callable[[Run, Attempt], Job],
        folder: Callable[[Run], JobFolder],
        clock: Clock,
    ) -> None:
        self._store, self._answers, self._departed, self._leadership = store, answers, departed, leadership
        self._command, self._folder, self._clock = command, folder, clock
        self._asked: dict[str, datetime] = {}

    def carry_out(self, run: Run, actions: list[Action]) -> None:
        """Do what was decided, in that order.

        Raises:
            ConflictError: The run has changed since; what is left was not done.
            NotLeaderError: Another leads; likewise.
        """
        for action in actions:
            match action:
                case Begin(words):
                    first = self._answers.first
                    run = self._move(run, Signal.BEGIN, words, backend=first.name, place=first.place)
                case Submit():
                    run = self._submit(run)
                case Note(signal, words):
                    run = self._move(run, signal, words)
                case SetCondition(condition, holds, words):
                    run = self._set(run, condition, holds, words)
                case End(signal, words, ending, due):
                    run = self._move(run, signal, words, ending=ending, due=due)
                case AskFolder():
                    self._ask_folder(run)
                case AskBackend():
                    self._ask_backend(self._store.attempts(run.id)[-1])

    def _move(
        self,
        run: Run,
        signal: Signal,
        words: str,
        *,
        backend: str = "",
        place: str | None = None,
        ending: Ending | None = None,
        due: datetime | None = None,
    ) -> Run:
        after = self._store.move(
            run,
            signal,
            words=words,
            actor=ACTOR,
            lease=self._leadership.held(),
            backend=backend,
            place=place,
            ending=ending,
            due=due,
        )
        _log.info("run %s: %s: %s", run.id, signal, words)
        if ending is not None:
            attempt = self._store.attempts(run.id)[-1]
            self._departed.add(after, attempt, asked=self._asked.get(attempt.submission_id))
        return after

    def _set(self, run: Run, condition: Condition, holds: bool, words: str) -> Run:
        after = self._store.set_condition(run.id, condition, holds=holds, words=words, lease=self._leadership.held())
        if after.version > run.version + 1 or after.state is not run.state:
            # A condition may be set whatever happened meanwhile; what was decided besides may not be done.
            raise ConflictError(f"run {run.id} has changed.", hint="Look at it again.")
        return after

    def _submit(self, run: Run) -> Run:
        attempt = self._store.attempts(run.id)[-1]
        try:
            self._answers.backend_of(attempt)  # where it is silent, nothing is prepared for it
            job = self._command(run, attempt)
            self._leadership.held()
            if self._store.get(run.id).version != run.version:  # a wish to stop, say: to prepare a job takes a while
                raise ConflictError(f"run {run.id} has changed.", hint="Look at it again.")
            new = self._answers.submit(attempt, job)
        except UnreachableBackendError as error:  # it may have the job all the same: the next pass asks
            return self._set(run, Condition.UNREACHABLE, True, f"The backend does not answer: {error}")
        except (CredentialsError, AccessDeniedError, BucketError):
            raise  # of the service's own, though a user may mend them: once that is done the run can begin
        except (BackendError, UserError) as error:
            answer, silence = self._answers.look(attempt)
            if answer is None:
                # It refuses this service, for a token that has run out, say: no run is to blame for that.
                return self._set(run, Condition.UNREACHABLE, True, f"The backend does not answer: {silence}")
            words = f"Its job cannot be started: {error}"  # and asking again would not help
            return self._move(run, Signal.FAILED, words, ending=Ending(Cause.USER_CODE))
        run = self._move(
            run, Signal.ACCEPTED, "The backend took its job." if new else "The backend had its job already."
        )
        if Condition.UNREACHABLE in run.conditions:
            return self._set(run, Condition.UNREACHABLE, False, ANSWERS_AGAIN)
        return run

    def _ask_folder(self, run: Run) -> None:
        try:
            self._folder(run).request_stop()
        except StorageError as error:  # asked again in the next pass, and the backend when the grace is over
            _log.warning("run %s cannot be asked to stop: %s", run.id, error)

    def _ask_backend(self, attempt: Attempt) -> None:
        if self._answers.stop(attempt):
            self._asked[attempt.submission_id] = self._clock()

    def asked(self, submission: str) -> datetime | None:
        """When the backend was last asked to end a job."""
        return self._asked.get(submission)

    def keep(self, submissions: Collection[str]) -> None:
        """Forget all others."""
        self._asked = {submission: at for submission, at in self._asked.items() if submission in submissions}
