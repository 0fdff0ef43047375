"""The leader: looks at every run that has not ended, and does what follows from what it sees."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event as Flag
from typing import cast

from jobs.errors import RecoError, UserError
from jobs.job_folder import JobFolder
from jobs.run_folder import Progress
from jobs.spec import parse_spec
from service.backends.base import Backend, Job
from service.runs.acting import Acting
from service.runs.answers import Answers
from service.runs.clearing import Clearing
from service.runs.database import Clock
from service.runs.decision import decide
from service.runs.departed import Departed
from service.runs.errors import ConflictError, NotLeaderError, StoreError, TransitionError
from service.runs.evidence import FolderEvidence, FolderReader, Seen
from service.runs.idempotency import Replies
from service.runs.leadership import Leadership
from service.runs.leases import Leases
from service.runs.listing import RunList
from service.runs.pace import Pace, Watch
from service.runs.records import Attempt, Run
from service.runs.schema import JsonObject
from service.runs.states import Condition, State, submission_id
from service.runs.store import RunStore

_log = logging.getLogger("reco.leader")


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
        replies: Answers kept for clients who ask again; old ones are forgotten.
    """

    def __init__(
        self,
        store: RunStore,
        listed: RunList,
        leases: Leases,
        backends: Mapping[str, Backend],
        command: Callable[[Run, Attempt], Job],
        folder: Callable[[Run], JobFolder],
        clock: Clock,
        *,
        patience: Patience = Patience(),
        holder: str | None = None,
        replies: Replies | None = None,
    ) -> None:
        self._store, self._list = store, listed
        self._folder, self._clock, self._patience = folder, clock, patience
        self._leadership = Leadership(leases, clock, seconds=patience.lease_s, holder=holder)
        self._answers = Answers(backends)
        self._departed = Departed(store, self._answers, folder, clock, grace_s=patience.grace_s)
        self._acting = Acting(store, self._answers, self._departed, self._leadership, command, folder, clock)
        self._clearing = Clearing(store, backends.values(), folder, clock, replies)
        self._reader = FolderReader()
        self._watch = Watch()
        self._stopping: dict[str, datetime] = {}
        self._told: dict[str, Progress] = {}

    def run_forever(self, stop: Flag, interval: float, *, done: Callable[[bool], bool] = lambda led: False) -> None:
        """Make a pass every so many seconds until told to stop; then let another lead at once.

        Args:
            stop: Ends it.
            interval: Seconds between two passes.
            done: Asked after each pass, with whether this process led; True ends it as well.
        """
        while not stop.is_set():
            led = False
            try:
                led = self.tick()
            except RecoError as error:
                _log.warning("a pass was given up: %s", error)
            except Exception:  # noqa: BLE001 - runs need a leader more than this one needs to know what went wrong
                _log.exception("a pass was given up")
            if done(led):
                break
            stop.wait(interval)
        self._leadership.release()

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
            self._answers.ask_anew()
            runs = self._list.unfinished()
            for run in runs:
                self._guarded(run.id, functools.partial(self._look_after, run))
            for run, attempt in self._departed:
                self._guarded(run.id, functools.partial(self._see_off, run, attempt))
        except NotLeaderError as error:
            _log.warning("%s", error)
            self._leadership.lose()
            return False
        self._forget(runs)
        self._clearing.clear()
        return True

    def another_leads(self) -> bool:
        """Whether another process leads."""
        return self._leadership.another_leads()

    def leave_if_idle(self) -> bool:
        """Let another lead if there is nothing left to do; whether it is so.

        Whoever stores a run looks for a leader afterwards. Whoever still found this one had stored it before the lease
        was given back: so it is seen here, and there is something left to do.
        """
        if self._departed.waiting or self._list.unfinished():
            return False
        self._leadership.release()
        return not self._list.unfinished()

    def _lead(self) -> bool:
        """Take the lease or hold it for longer; whether this process leads."""
        if self._leadership.renew():
            return True
        if not self._leadership.take():
            return False
        try:
            self._departed.find()
        except BaseException:
            self._leadership.lose()  # so that the next pass looks again
            raise
        return True

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
        self._leadership.held()
        attempts = self._store.attempts(run.id)
        if not run.state.has_live_attempt:
            self._acting.carry_out(run, decide(Seen(run, attempts, self._clock())))
            return
        attempt, folder = attempts[-1], self._folder(run)
        # The backend first: an outcome that is not there after the job has ended will not come any more. The other way
        # round, a job that ends between the two questions would seem to have left none.
        answer, silence = self._answers.look(attempt)
        over, stopping = answer is not None and answer.ended, run.state is State.STOPPING
        evidence = self._reader.read(folder, attempt.submission_id, over=over, stopping=stopping)
        now, limit = self._clock(), _stall_limit_s(run.spec)
        if stopping:
            self._stopping.setdefault(attempt.submission_id, now)
        seen = Seen(
            run,
            attempts,
            now,
            answer=answer,
            silence=silence,
            folder=evidence,
            pace=self._pace(run, attempt, evidence, now, limit),
            stall_limit_s=limit,
            stopping_since=self._stopping.get(attempt.submission_id),
            backend_asked=self._acting.asked(attempt.submission_id),
            grace_s=self._patience.grace_s,
        )
        self._acting.carry_out(run, decide(seen))
        if answer is not None and not answer.ended and attempt.submission_id not in self._departed:
            self._departed.copy_log(folder, attempt, ended=False)
        if evidence is not None and evidence.progress is not None:
            self._tell(run, evidence.progress)

    def _pace(
        self, run: Run, attempt: Attempt, evidence: FolderEvidence | None, now: datetime, limit: float
    ) -> Pace | None:
        """How the attempt moves. Nobody can tell of a sweep: between two trials that end may be any time."""
        if evidence is None or run.kind == "sweep":
            return None
        held = run.conditions.get(Condition.STALLED)
        before = None if held is None else held - timedelta(seconds=limit)
        return self._watch.look(attempt.submission_id, evidence.progress, now, still_before=before)

    def _tell(self, run: Run, progress: Progress) -> None:
        """Keep how far a run is where lists can have it without asking its storage."""
        if self._told.get(run.id) != progress:
            self._store.save_progress(run.id, cast(JsonObject, progress), lease=self._leadership.held())
            self._told[run.id] = progress

    def _see_off(self, run: Run, attempt: Attempt) -> None:
        self._leadership.held()
        self._departed.see_off(run, attempt)

    def _forget(self, runs: list[Run]) -> None:
        """Forget what is remembered of anything but these runs."""
        live = {submission_id(run.id, run.attempts) for run in runs if run.state.has_live_attempt}
        self._reader.keep(live)
        self._watch.keep(live)
        self._departed.keep(live)
        self._stopping = {submission: at for submission, at in self._stopping.items() if submission in live}
        self._acting.keep(live)
        self._told = {run.id: self._told[run.id] for run in runs if run.id in self._told}


@functools.lru_cache(maxsize=1024)
def _stall_limit_s(spec: str) -> float:
    """Longest that a run may stand still, in seconds; what its workers themselves go by."""
    try:
        return parse_spec(spec, source="the stored spec").scale.stall_minutes * 60
    except UserError:
        return Seen.stall_limit_s  # not a run of this version: it is no reason to leave it alone
