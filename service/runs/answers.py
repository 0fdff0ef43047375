"""What backends answer, where one that is silent is not asked again and again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from jobs.job_folder import SUBMISSION_VARIABLE
from service.backends.base import Answer, Backend, BackendError, Job, UnreachableBackendError
from service.runs.records import Attempt

_log = logging.getLogger("reco.leader")


class ElsewhereError(UnreachableBackendError):
    """A job is where no backend of this service asks; of others its backend may well say how they are."""


class Answers:
    """Asks backends about the jobs of attempts.

    A backend that did not answer is not asked again until the next pass: to wait for it once is enough, also where a
    hundred runs depend on it.

    Args:
        backends: By name; the first takes new attempts, and each attempt stays with the one it began on.
    """

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends
        self._silent: dict[str, str] = {}  # those that did not answer in this pass, and what was said instead
        self._full: dict[str, str] = {}  # those that took no job in this pass: they may answer of those they have

    @property
    def first(self) -> Backend:
        """The backend that takes new attempts."""
        return next(iter(self._backends.values()))

    def ask_anew(self) -> None:
        """Begin a pass."""
        self._silent.clear()
        self._full.clear()

    def backend_of(self, attempt: Attempt) -> Backend:
        """The backend of an attempt.

        Raises:
            ElsewhereError: There is none of its name here, or that one is at another place.
            UnreachableBackendError: It was silent in this pass.
        """
        if attempt.backend not in self._backends:
            raise ElsewhereError(f"this service knows no backend {attempt.backend!r}.")
        backend = self._backends[attempt.backend]
        # Another cluster would say that it has no such job, and a run that trains would be started a second time.
        if not attempt.is_at(backend.place):
            raise ElsewhereError(
                f"the job is at {attempt.place}, and this service asks {backend.place}.",
                hint=f"Let it ask there again. If only the address is new, or all jobs there are gone for good, set "
                f"RECO_BACKEND_PLACE={attempt.place}.",
            )
        if attempt.backend in self._silent:
            raise UnreachableBackendError(self._silent[attempt.backend])
        return backend

    def look(self, attempt: Attempt) -> tuple[Answer | None, str]:
        """How a job is, or None and why nobody says so."""
        try:
            return self.backend_of(attempt).look(attempt.submission_id), ""
        except ElsewhereError as error:
            return None, str(error)
        except UnreachableBackendError as error:
            self._silent.setdefault(attempt.backend, str(error))
            return None, self._silent[attempt.backend]
        except BackendError as error:  # that it refuses to say of this one is no answer either
            return None, str(error)

    def submit(self, attempt: Attempt, job: Job) -> bool:
        """Have a job started that knows which attempt it is; see `Backend.submit`.

        Raises:
            BackendError: It was refused.
            UnreachableBackendError: No answer; it may have been started all the same.
        """
        told = {**job.environment, SUBMISSION_VARIABLE: attempt.submission_id}
        backend = self.backend_of(attempt)
        if attempt.backend in self._full:
            raise UnreachableBackendError(self._full[attempt.backend])
        try:
            return backend.submit(attempt.submission_id, replace(job, environment=told))
        except UnreachableBackendError as error:
            self._full.setdefault(attempt.backend, str(error))
            raise

    def stop(self, attempt: Attempt) -> bool:
        """Ask for a job to be ended; whether that was heard."""
        try:
            self.backend_of(attempt).stop(attempt.submission_id)
        except (UnreachableBackendError, BackendError) as error:
            _log.warning("job %s cannot be ended: %s", attempt.submission_id, error)
            return False
        return True
