"""The leader: looks at every run that has not ended, and does what follows from what it sees."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Event as Flag

from jobs.errors import RecoError, UserError
from jobs.job_folder import SUBMISSION_VARIABLE
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from jobs.storage import StorageError
from service.backends.base import Answer, Backend, BackendError, Job, UnreachableBackendError
from service.runs.database import Clock
from service.runs.errors import ConflictError, NotLeaderError, StoreError, TransitionError
from service.runs.evidence import (
    Action,
    AskBackend,
    AskFolder,
    Begin,
    End,
    Note,
    Pace,
    Seen,
    SetCondition,
    Submit,
    Watch,
    decide,
    read_folder,
)
from service.runs.leases import Lease, Leases
from service.runs.listing import Filter, RunList
from service.runs.logs import LogCopies, RunLog
from service.runs.records import Attempt, Run
from service.runs.retry import Cause
from service.runs.states import Condition, Signal, State, submission_id
from service.runs.store import Ending, RunStore

_log = logging.getLogger("reco.leader")

LEASE = "leader"
ACTOR = "leader"
_RECENT = timedelta(days=1)
"""A new leader looks after the jobs of attempts that ended in this time; older ones have long been seen to end."""
_LATE = timedelta(hours=1)
"""For so long a job may still come to life whose attempt is over: by a leader that was paused while submitting."""


@dataclass(frozen=True)
class Patience:
    """How long the leader waits for what.

    Attributes:
        lease_s: Another leads, once this one has said nothing for so long.
        grace_s: A run that is to stop saves and ends by itself for so long; then its backend is asked to end it.
    """

    lease_s: float = 60.0
    grace_s: float = 300.0


class Reconciler:
    """Brings what is stored and what is real together, one pass after another.

    What it keeps in memory only spares work or repeats a harmless question: any process may go on where this one ends.

    Args:
        store: The runs.
        listed: The same as lists.
        leases: Of which one says who leads.
        backends: By name; attempts are begun on the first, and each stays with the one it began on.
        command: The job of an attempt.
        folder: The folder of a run.
        clock: What time it is.
        patience: How long to wait for what.
        holder: Name of this process, which no other has or had.
    """

    def __init__(
        self,
        store: RunStore,
        listed: RunList,
        leases: Leases,
        backends: Mapping[str, Backend],
        command: Callable[[Run, Attempt], Job],
        folder: Callable[[Run], RunFolder],
        clock: Clock,
        *,
        patience: Patience = Patience(),
        holder: str | None = None,
    ) -> None:
        self._store, self._list, self._leases = store, listed, leases
        self._backends, self._command, self._folder = backends, command, folder
        self._clock, self._patience = clock, patience
        self._holder = holder or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lease: Lease | None = None
        self._silent: dict[str, str] = {}  # backends that did not answer in this pass, and what was said instead
        self._watch = Watch()
        self._logs = LogCopies()
        self._over: dict[str, tuple[Run, Attempt]] = {}  # attempts that have ended, whose jobs may not have
        self._absent: set[str] = set()  # of these, those whose jobs were not there when last asked for
        self._stopping: dict[str, datetime] = {}
        self._asked: dict[str, datetime] = {}

    def run_forever(self, stop: Flag, interval: float) -> None:
        """Make a pass every so many seconds until told to stop; then let another lead at once."""
        while not stop.is_set():
            try:
                self.tick()
            except RecoError as error:
                _log.warning("a pass was given up: %s", error)
            except Exception:  # noqa: BLE001 - runs need a leader more than this one needs to know what went wrong
                _log.exception("a pass was given up")
            stop.wait(interval)
        if self._lease is not None:
            with contextlib.suppress(RecoError):  # it ends by itself, a little later
                self._leases.release(self._lease)
            self._lease = None

    def tick(self) -> bool:
        """One pass over all runs that have not ended.

        Returns:
            Whether this process led to its end.

        Raises:
            StoreError: The database does not answer.
        """
        try:
            if not self._lead():
                return False
            self._silent.clear()
            runs = self._list.unfinished()
            for run in runs:
                self._guarded(run.id, functools.partial(self._look_after, run))
            for run, attempt in list(self._over.values()):
                self._guarded(run.id, functools.partial(self._see_off, run, attempt))
        except NotLeaderError as error:
            _log.warning("%s", error)
            self._lease = None
            return False
        self._forget(runs)
        return True

    def _lead(self) -> bool:
        """Take the lease or hold it for longer; whether this process leads."""
        if self._lease is not None:
            self._lease = self._leases.renew(self._lease, seconds=self._patience.lease_s)
        if self._lease is None:
            self._lease = self._leases.acquire(LEASE, self._holder, seconds=self._patience.lease_s)
            if self._lease is not None:
                _log.info("%s leads (number %d)", self._holder, self._lease.fence)
                try:
                    self._find_over()
                except BaseException:
                    self._lease = None  # so that the next pass looks again
                    raise
        return self._lease is not None

    def _held(self) -> Lease:
        """The lease, renewed in time: a pass over many runs may be longer than it holds."""
        if self._lease is not None and self._lease.until - self._clock() < timedelta(
            seconds=self._patience.lease_s / 2
        ):
            self._lease = self._leases.renew(self._lease, seconds=self._patience.lease_s)
        if self._lease is None:
            raise NotLeaderError(f"{self._holder} does not lead any more.", hint="The new leader looks anew.")
        return self._lease

    def _guarded(self, run_id: str, do: Callable[[], None]) -> None:
        """Do something for one run, whose troubles must not keep the leader from the others."""
        try:
            do()
        except (ConflictError, TransitionError) as error:
            _log.info("run %s is looked at again: %s", run_id, error)
        except StoreError:
            raise
        except RecoError as error:
            _log.warning("run %s: %s", run_id, error)
        except Exception:  # noqa: BLE001 - a mistake met by one run must not leave all others alone
            _log.exception("run %s cannot be looked after", run_id)

    def _look_after(self, run: Run) -> None:
        self._held()
        attempts = self._store.attempts(run.id)
        if not run.state.has_live_attempt:
            self._carry_out(run, decide(Seen(run, attempts, self._clock())))
            return
        attempt, folder = attempts[-1], self._folder(run)
        # The backend first: an outcome that is not there after the job has ended will not come any more. The other way
        # round, a job that ends between the two questions would seem to have left none.
        answer, silence = self._look(attempt)
        evidence = read_folder(folder, attempt.submission_id, over=answer is not None and answer.ended)
        now, limit = self._clock(), _stall_limit_s(run.spec)
        pace: Pace | None = None
        if evidence is not None:
            held = run.conditions.get(Condition.STALLED)
            before = None if held is None else held - timedelta(seconds=limit)
            pace = self._watch.look(attempt.submission_id, evidence.progress, now, still_before=before)
        if run.state is State.STOPPING:
            self._stopping.setdefault(attempt.submission_id, now)
        seen = Seen(
            run,
            attempts,
            now,
            answer=answer,
            silence=silence,
            folder=evidence,
            pace=pace,
            stall_limit_s=limit,
            stopping_since=self._stopping.get(attempt.submission_id),
            backend_asked=self._asked.get(attempt.submission_id),
            grace_s=self._patience.grace_s,
        )
        self._carry_out(run, decide(seen))
        if answer is not None and not answer.ended and attempt.submission_id not in self._over:
            self._copy_log(folder, attempt, ended=False)

    def _look(self, attempt: Attempt) -> tuple[Answer | None, str]:
        """What the backend says of a job, or None and why it says nothing.

        One that does not answer is not asked again in this pass: to wait for it once is enough.
        """
        if attempt.backend not in self._backends:
            return None, f"this service knows no backend {attempt.backend!r}."
        if attempt.backend in self._silent:
            return None, self._silent[attempt.backend]
        try:
            return self._backends[attempt.backend].look(attempt.submission_id), ""
        except UnreachableBackendError as error:
            self._silent[attempt.backend] = str(error)
            return None, str(error)
        except BackendError as error:  # that it refuses to say of this one is no answer either
            return None, str(error)

    def _carry_out(self, run: Run, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Begin(words):
                    run = self._move(run, Signal.BEGIN, words, backend=next(iter(self._backends)))
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
        ending: Ending | None = None,
        due: datetime | None = None,
    ) -> Run:
        after = self._store.move(
            run, signal, words=words, actor=ACTOR, lease=self._held(), backend=backend, ending=ending, due=due
        )
        if ending is not None:
            attempt = self._store.attempts(run.id)[-1]
            self._over[attempt.submission_id] = (after, attempt)
        return after

    def _set(self, run: Run, condition: Condition, holds: bool, words: str) -> Run:
        after = self._store.set_condition(run.id, condition, holds=holds, words=words, lease=self._held())
        if after.version > run.version + 1 or after.state is not run.state:
            # A condition may be set whatever happened meanwhile; what was decided besides may not be done.
            raise ConflictError(f"run {run.id} has changed.", hint="Look at it again.")
        return after

    def _submit(self, run: Run) -> Run:
        attempt = self._store.attempts(run.id)[-1]
        backend = self._backends[attempt.backend]
        try:
            if attempt.backend in self._silent:
                raise UnreachableBackendError(self._silent[attempt.backend])
            job = self._command(run, attempt)
            told = {**job.environment, SUBMISSION_VARIABLE: attempt.submission_id}
            self._held()
            new = backend.submit(attempt.submission_id, replace(job, environment=told))
        except UnreachableBackendError as error:  # it may have the job all the same: the next pass asks
            self._silent[attempt.backend] = str(error)
            return self._set(run, Condition.UNREACHABLE, True, f"The backend does not answer: {error}")
        except (BackendError, UserError) as error:
            answer, silence = self._look(attempt)
            if answer is None:
                # It refuses this service, for a token that has run out, say: no run is to blame for that.
                return self._set(run, Condition.UNREACHABLE, True, f"The backend does not answer: {silence}")
            words = f"Its job cannot be started: {error}"  # and asking again would not help
            return self._move(run, Signal.FAILED, words, ending=Ending(Cause.USER_CODE))
        return self._move(
            run, Signal.ACCEPTED, "The backend took its job." if new else "The backend had its job already."
        )

    def _ask_folder(self, run: Run) -> None:
        try:
            self._folder(run).request_stop()
        except StorageError as error:  # asked again in the next pass, and the backend when the grace is over
            _log.warning("run %s cannot be asked to stop: %s", run.id, error)

    def _ask_backend(self, attempt: Attempt) -> None:
        try:
            self._backends[attempt.backend].stop(attempt.submission_id)
        except (UnreachableBackendError, BackendError) as error:
            _log.warning("job %s cannot be ended: %s", attempt.submission_id, error)
        else:
            self._asked[attempt.submission_id] = self._clock()

    def _see_off(self, run: Run, attempt: Attempt) -> None:
        """Look after the job of an attempt that has ended: end it if it does not, and keep the rest of its log."""
        self._held()
        answer, _ = self._look(attempt)
        if answer is None:
            return
        now = self._clock()
        since = now - (attempt.ended or now)
        if answer.status == "absent":
            self._absent.add(attempt.submission_id)
        elif not answer.ended:
            # A job that told its outcome is about to leave by itself. One that was not there, and now is, was submitted
            # too late by a leader that did not lead any more: it must not take the run from the attempt under way.
            asked = self._asked.get(attempt.submission_id)
            grace = timedelta(seconds=self._patience.grace_s)
            due = since >= grace or attempt.submission_id in self._absent
            if due and (asked is None or now - asked >= grace):
                _log.warning("ending job %s: its attempt is over", attempt.submission_id)
                self._ask_backend(attempt)
        complete = self._copy_log(self._folder(run), attempt, ended=answer.ended)
        if complete and (answer.status != "absent" or since >= _LATE):
            del self._over[attempt.submission_id]

    def _copy_log(self, folder: RunFolder, attempt: Attempt, *, ended: bool) -> bool:
        log = RunLog(folder.storage, attempt.number)
        backend = self._backends[attempt.backend]
        try:
            return self._logs.copy(backend, attempt.submission_id, log, self._clock(), ended=ended)
        except (UnreachableBackendError, BackendError, StorageError) as error:
            _log.warning("the log of %s cannot be copied now: %s", attempt.submission_id, error)
            return False

    def _find_over(self) -> None:
        """Find the attempts that have ended, and whose jobs an earlier leader may not have seen the end of."""
        since = self._clock() - _RECENT
        runs, after = self._list.unfinished(), None
        final = Filter(states=[state for state in State if state.is_final])
        while True:
            page = self._list.page(final, after=after, limit=500)
            runs += [run for run in page.runs if run.updated >= since]
            if (after := page.next) is None:
                break
        for run in runs:
            for attempt in self._store.attempts(run.id):
                if attempt.ended is not None and attempt.ended >= since:
                    self._over[attempt.submission_id] = (run, attempt)

    def _forget(self, runs: list[Run]) -> None:
        """Forget what is remembered of anything but these runs, and of attempts that are still to be seen off."""
        live = {submission_id(run.id, run.attempts) for run in runs if run.state.has_live_attempt}
        kept = live | self._over.keys()
        self._absent &= self._over.keys()
        self._watch.keep(live)
        self._logs.keep(kept)
        self._stopping = {submission: at for submission, at in self._stopping.items() if submission in live}
        self._asked = {submission: at for submission, at in self._asked.items() if submission in kept}


@functools.lru_cache(maxsize=1024)
def _stall_limit_s(spec: str) -> float:
    """Longest that a run may stand still, in seconds; what its workers themselves go by."""
    try:
        return parse_spec(spec, source="the stored spec").scale.stall_minutes * 60
    except UserError:
        return Seen.stall_limit_s  # not a run of this version: it is no reason to leave it alone
