"""Runs and sweeps, for the contract: over the store, the folders of runs, and what backends still hold of logs."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.checkpoints.manifest import survey
from jobs.errors import RecoError, UserError
from jobs.job_folder import JobFolder, Outcome
from jobs.spec import RunSpec
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import ranked, trials_of
from service.backends.base import BackendError, UnreachableBackendError
from service.contract.interface import EVERYTHING, NO_CHANGE, Runs, Wanted
from service.contract.messages import (
    Change,
    CheckpointView,
    DatasetView,
    Deleted,
    EventView,
    Identity,
    LogChunk,
    Plan,
    RunDetails,
    RunPage,
    RunView,
    Submission,
    SweepBoard,
    TrialView,
)
from service.control.creation import NewRuns
from service.control.job import WEIGHTS_FROM, folder_of
from service.control.specs import parsed_of, stored
from service.control.views import event_view, run_details, run_view
from service.runs.errors import UnknownRunError
from service.runs.logs import RunLog
from service.runs.records import Run

if TYPE_CHECKING:
    from service.control.control import Control

_log = logging.getLogger("reco.control")

_MAY_CHANGE = {
    "run": "Only `name`, `scale`, `checkpoint`, `register` and `data.bad_pictures` may change; "
    "`reco runs fork {run}` starts a new run from its weights.",
    "sweep": "Only `name`, `trials`, `concurrency`, `scale` and `budget` (but its epochs) may change; submit it anew.",
}


class StoredRuns(Runs):
    """Runs in the database. A caller with a project sees no other; every change is in the audit.

    Args:
        control: The service.
        caller: Who asks.
    """

    def __init__(self, control: Control, caller: Identity) -> None:
        self._control, self._caller = control, caller
        self._store = control.store
        self._new = NewRuns(control, caller)

    def plan(self, submission: Submission) -> Plan:
        """See `Runs.plan`."""
        return self._new.plan(submission)

    def submit(self, submission: Submission, *, key: str | None = None) -> RunView:
        """See `Runs.submit`."""
        return self._new.submit(submission, key=key)

    def page(self, wanted: Wanted = EVERYTHING, *, after: str | None = None, limit: int = 50) -> RunPage:
        """See `Runs.page`."""
        which = replace(wanted, project=self._caller.project or wanted.project)
        if self._caller.project is not None and wanted.project not in (None, self._caller.project):
            return RunPage(runs=[])
        page = self._control.listed.page(which, after=after, limit=limit)
        progress = self._store.progress_of([run.id for run in page.runs])
        counts = self._control.listed.counts(which) if after is None else None
        return RunPage(runs=[run_view(run, progress.get(run.id)) for run in page.runs], next=page.next, counts=counts)

    def show(self, run_id: str) -> RunDetails:
        """See `Runs.show`."""
        run = self._seen(run_id)
        attempts = self._store.attempts(run_id)
        over = attempts and not run.state.has_live_attempt
        outcome = self._outcome(folder_of(run), attempts[-1].submission_id) if over else None
        return run_details(run, attempts, self._store.progress_of([run_id]).get(run_id), outcome)

    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[EventView]:
        """See `Runs.events`."""
        self._seen(run_id)
        return [event_view(each) for each in self._store.events(run_id, after=after, limit=limit)]

    def log(self, run_id: str, *, attempt: int | None = None, offset: int = 0) -> LogChunk:
        """See `Runs.log`.

        What the run's folder keeps comes first; where that ends, what the backend has beyond it: the offsets are the
        same.
        """
        run = self._seen(run_id)
        number = attempt or run.attempts
        if number == 0:
            return _chunk(0, offset, b"", complete=run.state.is_final)
        chosen = next((each for each in self._store.attempts(run_id) if each.number == number), None)
        if chosen is None:
            raise UserError(f"run {run_id} has no attempt {number}.", hint=f"It had {run.attempts}; name one of these.")
        kept = RunLog(folder_of(run).storage, number)
        complete = kept.is_complete  # asked first: then what is read is all there will be
        part = kept.read(offset)
        if part.data or complete:
            return _chunk(number, offset, part.data, complete=complete and not part.data)
        try:
            backend = self._control.backends.get(chosen.backend)
            if backend is not None and chosen.is_at(backend.place):
                return _chunk(number, offset, backend.log(chosen.submission_id, offset).data, complete=False)
        except (UnreachableBackendError, BackendError, UserError) as error:
            _log.info("the log of %s beyond byte %d cannot be had now: %s", chosen.submission_id, offset, error)
        return _chunk(number, offset, b"", complete=False)

    def checkpoints(self, run_id: str) -> list[CheckpointView]:
        """See `Runs.checkpoints`."""
        kept = survey(folder_of(self._seen(run_id)).storage, verify=False)
        return [CheckpointView(step=each.step, size=each.size, state=each.state) for each in kept]

    def stop(self, run_id: str) -> RunView:
        """See `Runs.stop`."""
        self._seen(run_id)
        run = self._store.stop(run_id, actor=self._caller.owner, words=f"{self._caller.owner} asked it to stop.")
        return self._changed("run.stop", run)

    def resume(self, run_id: str, change: Change = NO_CHANGE) -> RunView:
        """See `Runs.resume`."""
        run = self._seen(run_id)
        if change.run_id is not None:
            raise UserError(
                "a run goes on under its own id.", hint="Leave `run_id` out, or fork the run to give it a new one."
            )
        found = stored(run, change.overrides)
        if change.overrides and found.hash != stored(run).hash:
            raise UserError(
                f"that would make {run.kind} {run_id} another experiment.",
                hint=_MAY_CHANGE[run.kind].format(run=run_id),
            )
        actor = self._caller.owner
        changed = f" with {', '.join(change.overrides)}" if change.overrides else ""
        run = self._store.resume(
            run_id,
            actor=actor,
            words=f"{actor} lets it go on{changed}.",
            spec=found.text if change.overrides else None,
            spec_hash=found.hash if change.overrides else None,
        )
        return self._changed("run.resume", run)

    def fork(self, run_id: str, change: Change = NO_CHANGE, *, key: str | None = None) -> RunView:
        """See `Runs.fork`."""
        return self._new.fork(self._seen(run_id), change, key=key)

    def delete(self, run_id: str) -> Deleted:
        """See `Runs.delete`.

        First it is marked, so that nobody lets it go on meanwhile; one that was cut off is repeated, and ends the work.
        """
        run = self._seen(run_id, deleted=True)
        if run.deleted is None:
            self._refuse_origin(run)
            actor = self._caller.owner
            run = self._store.delete(run_id, actor=actor, words=f"{actor} deleted it.")
            self._control.audit.add(actor, "run.delete", run_id)
        if run.attempts == 0:  # no job of its own ever wrote there
            return Deleted(run_id=run_id, objects=0, bytes=0)
        storage = folder_of(run).storage
        objects, size = 0, 0
        for each in list(storage.list()):
            storage.delete(each.key)
            objects, size = objects + 1, size + each.size
        return Deleted(run_id=run_id, objects=objects, bytes=size)

    def board(self, run_id: str) -> SweepBoard:
        """See `Runs.board`."""
        run = self._seen(run_id)
        folder = folder_of(run)
        if not isinstance(folder, SweepFolder):
            raise UserError(f"{run_id} is no sweep.", hint=f"`reco runs show {run_id}` shows a run.")
        sweep = parsed_of(run)
        assert not isinstance(sweep, RunSpec)
        mode = sweep.spec.objective.mode
        trials = [
            TrialView(
                number=trial.number,
                state=trial.status,
                values={path: trial.values[path] for path in sweep.space},
                objective=trial.objective,
                epochs=trial.epoch,
                reason=trial.reason,
            )
            for trial in ranked(trials_of(folder.ledger().events()), mode=mode)
        ]
        return SweepBoard(sweep_id=run_id, metric=sweep.metric, mode=mode, wanted=sweep.trials, trials=trials)

    def datasets(self, project: str | None = None) -> list[DatasetView]:
        """See `Runs.datasets`."""
        from service.control import datasets  # late: the reader of indexes takes a tenth of a second to import

        if self._caller.project is not None and project not in (None, self._caller.project):
            return []
        return datasets.used(self._control.listed, self._caller.project or project)

    def _seen(self, run_id: str, *, deleted: bool = False) -> Run:
        """The run, if the caller may see it."""
        run = self._store.get(run_id)
        if self._caller.project not in (None, run.project):  # as if it were not there: its id is told to nobody
            raise UnknownRunError(f"there is no run {run_id}.", hint="`reco runs list` shows those there are.")
        if run.deleted is not None and not deleted:
            raise UnknownRunError(
                f"run {run_id} was deleted ({run.deleted:%Y-%m-%d %H:%M} UTC).", hint="Its id stays taken."
            )
        return run

    def _refuse_origin(self, run: Run) -> None:
        """A fork copies the weights it begins with when it starts: until then they must stay."""
        url = folder_of(run).url
        for other in self._control.listed.unfinished():
            if other.lineage.get(WEIGHTS_FROM) == url and not folder_of(other).storage.exists("origin.json"):
                raise UserError(
                    f"run {other.id} is about to begin with the weights of {run.id}.",
                    hint=f"Delete it once {other.id} trains, or stop {other.id} first.",
                )

    def _outcome(self, folder: JobFolder, submission: str) -> Outcome | None:
        """How an attempt ended; what an earlier one left says nothing of it."""
        try:
            told = folder.outcome()
            return told if isinstance(told, dict) and told.get("submission") in (None, submission) else None
        except RecoError as error:  # a run is shown even where its storage is away
            _log.warning("how %s ended cannot be read: %s", folder.job_id, error)
            return None

    def _changed(self, action: str, run: Run) -> RunView:
        self._control.audit.add(self._caller.owner, action, run.id)
        return run_view(run, self._store.progress_of([run.id]).get(run.id))


def _chunk(attempt: int, offset: int, data: bytes, *, complete: bool) -> LogChunk:
    return LogChunk(
        attempt=attempt,
        offset=offset,
        next_offset=offset + len(data),
        text=data.decode(errors="replace"),
        complete=complete,
    )
