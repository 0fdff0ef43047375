"""Attempts that are over, and whose jobs may not be: they are seen off, and the rest of their logs is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from jobs.job_folder import JobFolder
from jobs.storage import StorageError
from service.backends.base import BackendError, UnreachableBackendError
from service.runs.answers import Answers
from service.runs.database import Clock
from service.runs.logs import LogCopies, RunLog
from service.runs.records import Attempt, Run
from service.runs.store import RunStore

_log = logging.getLogger("reco.leader")

_RECENT = timedelta(days=1)
"""A new leader looks after the jobs of attempts that ended in this time; older ones have long been seen to end, or
nobody can say how they are: their backend is gone."""
_LATE = timedelta(hours=1)
"""For so long a job may still come to life whose attempt is over: by a leader that was paused while submitting."""


class Departed:
    """Looks after the jobs of attempts that have ended, until nothing more will come of them.

    Args:
        store: The runs.
        answers: Of the backends.
        folder: The folder of a run.
        clock: What time it is.
        grace_s: How long such a job may take to leave by itself.
    """

    def __init__(
        self,
        store: RunStore,
        answers: Answers,
        folder: Callable[[Run], JobFolder],
        clock: Clock,
        *,
        grace_s: float,
    ) -> None:
        self._store, self._answers, self._folder, self._clock = store, answers, folder, clock
        self._grace = timedelta(seconds=grace_s)
        self._over: dict[str, tuple[Run, Attempt]] = {}
        self._absent: set[str] = set()  # of these, those whose jobs were not there when last asked for
        self._silent: set[str] = set()  # likewise those of which nobody could say anything
        self._asked: dict[str, datetime] = {}
        self._logs = LogCopies()

    def __iter__(self) -> Iterator[tuple[Run, Attempt]]:
        """Those that are to be seen off; some may be while one goes through them."""
        return iter(list(self._over.values()))

    def __contains__(self, submission: str) -> bool:
        return submission in self._over

    @property
    def waiting(self) -> bool:
        """Whether some job is still there, or its log is not complete.

        A job that is absent is waited for only in case it comes late; that is no reason to stay. Nor is one whose
        backend is silent, perhaps for good: whoever leads next asks again.
        """
        return bool(self._over.keys() - self._absent - self._silent)

    def add(self, run: Run, attempt: Attempt, *, asked: datetime | None = None) -> None:
        """An attempt has ended.

        Args:
            run: That it was of.
            attempt: As it ended.
            asked: When its backend was asked to end its job, if it was.
        """
        self._over[attempt.submission_id] = (run, attempt)
        if asked is not None:
            self._asked[attempt.submission_id] = asked

    def find(self) -> None:
        """Find those that an earlier leader may not have seen off."""
        for run, attempt in self._store.ended_since(self._clock() - _RECENT):
            self.add(run, attempt)

    def see_off(self, run: Run, attempt: Attempt) -> None:
        """Look after one: end its job if it does not end, and keep the rest of its log."""
        answer, _ = self._answers.look(attempt)
        submission, now = attempt.submission_id, self._clock()
        since = now - (attempt.ended or now)
        if answer is None:
            self._silent.add(submission)
            if since >= _RECENT:
                self._let_go(submission)
            return
        self._silent.discard(submission)
        if answer.status == "absent":
            self._absent.add(submission)
        elif not answer.ended:
            # A job that told its outcome is about to leave by itself. One that was not there, and now is, was submitted
            # too late by a leader that did not lead any more: it must not take the run from the attempt under way.
            asked = self._asked.get(submission)
            due = since >= self._grace or submission in self._absent
            if due and (asked is None or now - asked >= self._grace):
                _log.warning("ending job %s: its attempt is over", submission)
                if self._answers.stop(attempt):
                    self._asked[submission] = now
        # A log copied into the folder of a deleted run would bring that back.
        deleted = self._store.get(run.id).deleted is not None
        complete = answer.ended if deleted else self.copy_log(self._folder(run), attempt, ended=answer.ended)
        if not deleted and self._store.get(run.id).deleted is not None:  # while it was copied
            storage = self._folder(run).storage
            for each in list(storage.list("logs/")):
                storage.delete(each.key)
        if complete and (answer.status != "absent" or since >= _LATE):
            self._let_go(submission)

    def _let_go(self, submission: str) -> None:
        """Look after it no more."""
        del self._over[submission]
        self._absent.discard(submission)
        self._silent.discard(submission)
        self._asked.pop(submission, None)

    def copy_log(self, folder: JobFolder, attempt: Attempt, *, ended: bool) -> bool:
        """Copy what the job of an attempt, over or not, has printed; whether all of it is kept, and no more will come.

        Args:
            folder: Of its run.
            attempt: The attempt.
            ended: The backend has said that the job has ended.
        """
        log = RunLog(folder.storage, attempt.number)
        try:
            backend = self._answers.backend_of(attempt)
            return self._logs.copy(backend, attempt.submission_id, log, self._clock(), ended=ended)
        except (UnreachableBackendError, BackendError, StorageError) as error:
            _log.warning("the log of %s cannot be copied now: %s", attempt.submission_id, error)
            return False

    def keep(self, live: set[str]) -> None:
        """Forget how far logs were copied, but of these attempts and of those to be seen off."""
        self._logs.keep(live | self._over.keys())
