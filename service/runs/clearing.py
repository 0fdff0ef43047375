"""What backends keep of jobs that ended long ago is removed, once the run's folder has all that is worth keeping."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from jobs.job_folder import JobFolder
from jobs.storage import StorageError
from service.backends.base import Backend, BackendError, UnreachableBackendError
from service.runs.database import Clock
from service.runs.idempotency import Replies
from service.runs.logs import RunLog
from service.runs.records import Attempt, Run
from service.runs.store import RunStore

_log = logging.getLogger("reco.leader")

_OLD = timedelta(days=7)
"""So long after its end, nobody submits an attempt's job again, nor asks a client what became of its request."""
_EVERY = timedelta(hours=1)


class Clearing:
    """Has backends forget jobs, and the store what clients were answered.

    Args:
        store: The runs.
        backends: Whose jobs they are.
        folder: The folder of a run.
        clock: What time it is.
        replies: Answers that are kept for clients who ask again.
    """

    def __init__(
        self,
        store: RunStore,
        backends: Iterable[Backend],
        folder: Callable[[Run], JobFolder],
        clock: Clock,
        replies: Replies | None = None,
    ) -> None:
        self._store, self._backends, self._folder, self._clock = store, list(backends), folder, clock
        self._replies = replies
        self._last: datetime | None = None

    def clear(self) -> None:
        """Have what is old forgotten; most of the time there is nothing to do."""
        now = self._clock()
        if self._last is not None and now - self._last < _EVERY:
            return
        self._last = now
        if self._replies is not None and (gone := self._replies.forget(now - _OLD)):
            _log.info("%d answers of before %s are forgotten", gone, now - _OLD)
        for backend in self._backends:
            try:
                for submission in backend.kept():
                    if self._may_go(submission, backend):
                        backend.forget(submission)
            except (UnreachableBackendError, BackendError, StorageError) as error:
                _log.warning("old jobs of %s are left for later: %s", backend.name, error)

    def _may_go(self, submission: str, backend: Backend) -> bool:
        attempt = self._store.attempt_of(submission)
        if attempt is None or attempt.backend != backend.name or not attempt.is_at(backend.place):
            return False  # not ours to remove: two stores may share a backend
        if attempt.ended is None or self._clock() - attempt.ended < _OLD:
            return False
        run = self._store.get(attempt.run_id)
        return run.deleted is not None or self._has_log(run, attempt)

    def _has_log(self, run: Run, attempt: Attempt) -> bool:
        return RunLog(self._folder(run).storage, attempt.number).is_complete
