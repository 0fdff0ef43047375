"""New runs: planned, submitted, or forked from another; stored in one transaction with what the client is answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from jobs.checkpoints.manifest import survey
from jobs.errors import RecoError, UserError
from jobs.spec import RunSpec, parse_spec
from jobs.storage import NotFoundError, Storage, StorageError
from service.contract.messages import Change, Identity, Plan, RunView, Submission
from service.control.job import FORKED_FROM, THEN_FULL, WEIGHTS_FROM, folder_at, folder_of
from service.control.specs import Checked, checked, parsed_of, stored
from service.control.views import run_view
from service.runs.errors import RunExistsError, UnknownRunError
from service.runs.records import NewRun, Run
from service.runs.schema import JsonObject
from service.runs.wanted import Wanted

if TYPE_CHECKING:
    from service.control.control import Control

_log = logging.getLogger("reco.control")


class NewRuns:
    """Makes runs for a caller.

    Args:
        control: The service.
        caller: Who asks.
    """

    def __init__(self, control: Control, caller: Identity) -> None:
        self._control, self._caller = control, caller
        self._store = control.store

    def plan(self, submission: Submission) -> Plan:
        """See `Runs.plan`."""
        from service.control import planning  # late: the reader of indexes takes a tenth of a second to import

        found = checked(submission)
        project = self._project(submission.project)
        run_id = submission.run_id or self._new_id(found.name)
        last = self._last_of(found, project)
        progress = None if last is None else self._store.progress_of([last.id]).get(last.id)
        return planning.plan(found, run_id, self._control.settings, last, None if progress is None else progress[1])

    def submit(self, submission: Submission, *, key: str | None = None) -> RunView:
        """See `Runs.submit`."""
        asked = submission.model_dump_json()
        if (answered := self._answered(submission.project, asked, key)) is not None:
            return answered
        found = checked(submission)
        lineage: JsonObject = {THEN_FULL: True} if submission.then_full and found.kind == "sweep" else {}
        return self._create(found, submission.run_id, submission.project, lineage, asked, key)

    def fork(self, origin: Run, change: Change, *, key: str | None = None) -> RunView:
        """See `Runs.fork`."""
        run_id = origin.id
        asked = f"{run_id} {change.model_dump_json()}"
        if (answered := self._answered(origin.project, asked, key)) is not None:
            return answered
        before = parsed_of(origin)
        if not isinstance(before, RunSpec):
            raise UserError(
                f"{run_id} is a sweep; only a run has weights.",
                hint=f"`reco sweep best {run_id} > best.yaml`, then `reco pretrain best.yaml`.",
            )
        found = stored(origin, change.overrides)
        assert isinstance(found.parsed, RunSpec)
        if (why := _other_encoder(before, found.parsed)) is not None:
            raise UserError(
                f"the weights of run {run_id} fit no other encoder: {why}.", hint="Leave `encoder` and it as they are."
            )
        folder = folder_of(origin)
        if not any(each.state == "whole" for each in survey(folder.storage, verify=False)):
            raise UserError(
                f"run {run_id} has no whole checkpoint, so there are no weights to begin with.",
                hint=f"`reco runs checkpoints {run_id}` shows what is saved; submit its spec anew instead.",
            )
        lineage: JsonObject = {FORKED_FROM: run_id, WEIGHTS_FROM: folder.url}
        return self._create(found, change.run_id, origin.project, lineage, asked, key)

    def _create(
        self, found: Checked, run_id: str | None, project: str, lineage: JsonObject, asked: str, key: str | None
    ) -> RunView:
        while True:
            try:
                return self._create_once(found, run_id, project, lineage, asked, key)
            except RunExistsError:
                if run_id is not None:
                    raise  # else: another took the id that was made for it, in the same second

    def _create_once(
        self, found: Checked, run_id: str | None, project: str, lineage: JsonObject, asked: str, key: str | None
    ) -> RunView:
        """Store a run, its answer under the client's key, and the audit's entry, in one transaction."""
        project = self._project(project)
        new = NewRun(
            id=run_id or self._new_id(found.name),
            name=found.name,
            spec=found.text,
            spec_hash=found.hash,
            owner=self._caller.owner,
            project=project,
            lineage=lineage,
            kind=found.kind,
            storage=self._control.settings.storage,
        )
        self._refuse_full_run(new)
        _refuse_foreign_folder(new, found, confined=self._caller.project is not None)

        def act(session: Session) -> JsonObject:
            run = self._store.create_in(session, new, words=f"{new.owner} submitted it.")
            self._control.audit.add_in(session, new.owner, "run.submit", new.id, {"project": project, **lineage})
            return run_view(run, None).model_dump(mode="json")

        if key is None:
            with self._control.database.writing() as session:
                return RunView.model_validate(act(session))
        reply = self._control.replies.once(project=self._scope(project), key=key, request=asked.encode(), act=act)
        return RunView.model_validate(reply.response)

    def _answered(self, project: str, asked: str, key: str | None) -> RunView | None:
        """What the same request was answered before; looked up before all checks, as its run is there by now."""
        if key is None:
            return None
        kept = self._control.replies.kept(project=self._scope(self._project(project)), key=key, request=asked.encode())
        return None if kept is None else RunView.model_validate(kept.response)

    def _scope(self, project: str) -> str:
        """Where a client's keys are its own."""
        return f"{project}/{self._caller.owner}"[:200]

    def _project(self, wanted: str) -> str:
        """The project that something is made in: the caller's where it has only one."""
        mine = self._caller.project
        if mine is not None and wanted not in ("default", mine):
            raise UserError(
                f"your token is for project {mine} only.", hint=f"Leave `project` out, or set it to {mine}."
            )
        return mine or wanted

    def _refuse_full_run(self, new: NewRun) -> None:
        """The full run of a sweep lies beside it, and in no row: its id is taken with the sweep's."""
        sweep = new.id.removesuffix("-full")
        of_a_sweep = sweep != new.id and self._taken(sweep) and self._store.get(sweep).kind == "sweep"
        if of_a_sweep or (new.kind == "sweep" and self._taken(f"{new.id}-full")):
            raise RunExistsError(f"there is a run {new.id} already.", hint="Give the new one another id.")

    def _new_id(self, name: str) -> str:
        first = f"{name}-{self._control.database.clock():%Y%m%d-%H%M%S}"
        found, number = first, 2
        while self._taken(found):
            found, number = f"{first}-{number}", number + 1
        return found

    def _taken(self, run_id: str) -> bool:
        try:
            self._store.get(run_id)
        except UnknownRunError:
            return False
        return True

    def _last_of(self, found: Checked, project: str) -> Run | None:
        which = Wanted(name=found.name, project=project, kind=found.kind)
        return next(iter(self._control.listed.page(which, limit=1).runs), None)


def _refuse_foreign_folder(new: NewRun, found: Checked, *, confined: bool) -> None:
    """Tell at once that a new run's folder is another's: its job would only find out later.

    Args:
        new: The run.
        found: What it is.
        confined: The caller sees one project only, so no folder may become its own that was there before.
    """
    folder = folder_at(new.kind, new.storage, new.id)  # refuses an id that cannot be the name of a folder
    if new.kind == "sweep" and not confined:
        return  # one that was begun by hand may go on through the service; `claim` looks whether it is the same
    try:
        fits = not any(True for _ in folder.storage.list()) or (not confined and _fits(folder.storage, found))
    except StorageError as error:
        if confined:
            raise
        _log.warning("whether %s is free cannot be seen now: %s", folder.url, error)
        return
    if not fits:
        raise UserError(f"the folder of {new.id} holds another experiment, or something else.", hint="Take another id.")


def _fits(storage: Storage, found: Checked) -> bool:
    """Whether what lies in a run's folder is the same experiment, or one that never began."""
    try:
        before = parse_spec(storage.read("spec.yaml").decode())
    except NotFoundError:
        return False
    except StorageError:
        raise
    except (RecoError, UnicodeDecodeError):
        return False
    return before.hash == found.hash or not any(True for _ in storage.list("attempts/"))


def _other_encoder(before: RunSpec, after: RunSpec) -> str | None:
    """How the encoder or its head differs, in words."""
    now = after.encoder_options
    return next(
        (f"{path} was {was}, now {now[path]}" for path, was in before.encoder_options.items() if now[path] != was), None
    )
