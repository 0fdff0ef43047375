"""New runs: planned, submitted, or forked from another; stored in one transaction with what the client is answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from jobs.checkpoints.manifest import list_manifests
from jobs.errors import UserError
from jobs.spec import RunSpec, parse_spec
from jobs.storage import StorageError
from service.contract.messages import Change, Identity, Plan, RunView, Submission
from service.control.job import FORKED_FROM, THEN_FULL, WEIGHTS_FROM, folder_at, folder_of
from service.control.specs import Checked, checked, of_run, stored
from service.control.views import run_view
from service.runs.errors import UnknownRunError
from service.runs.listing import Filter
from service.runs.records import NewRun, Run
from service.runs.schema import JsonObject

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
        found = checked(submission)
        lineage: JsonObject = {THEN_FULL: True} if submission.then_full and found.kind == "sweep" else {}
        return self._create(found, submission.run_id, submission.project, lineage, submission.model_dump_json(), key)

    def fork(self, origin: Run, change: Change, *, key: str | None = None) -> RunView:
        """See `Runs.fork`."""
        run_id = origin.id
        before = stored(origin).parsed
        if not isinstance(before, RunSpec):
            raise UserError(
                f"{run_id} is a sweep; only a run has weights.", hint="Fork one of its trials' runs, or its full run."
            )
        found = of_run(parse_spec(origin.spec, change.overrides, source=f"the spec of {run_id}"))
        assert isinstance(found.parsed, RunSpec)
        if (why := _other_encoder(before, found.parsed)) is not None:
            raise UserError(
                f"the weights of run {run_id} fit no other encoder: {why}.", hint="Leave `encoder` and it as they are."
            )
        folder = folder_of(origin)
        if not list_manifests(folder.storage):
            raise UserError(
                f"run {run_id} has no checkpoint, so there are no weights to begin with.",
                hint=f"`reco runs checkpoints {run_id}` shows what is saved; submit its spec anew instead.",
            )
        lineage: JsonObject = {FORKED_FROM: run_id, WEIGHTS_FROM: folder.url}
        asked = f"{run_id} {change.model_dump_json()}"
        return self._create(found, change.run_id, origin.project, lineage, asked, key)

    def _create(
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
        _refuse_foreign_folder(new, found)

        def act(session: Session) -> JsonObject:
            run = self._store.create_in(session, new, words=f"{new.owner} submitted it.")
            self._control.audit.add_in(session, new.owner, "run.submit", new.id, {"project": project, **lineage})
            return run_view(run, None).model_dump(mode="json")

        if key is None:
            with self._control.database.writing() as session:
                return RunView.model_validate(act(session))
        scope = f"{project}/{self._caller.owner}"[:200]
        reply = self._control.replies.once(project=scope, key=key, request=asked.encode(), act=act)
        return RunView.model_validate(reply.response)

    def _project(self, wanted: str) -> str:
        """The project that something is made in: the caller's where it has only one."""
        mine = self._caller.project
        if mine is not None and wanted not in ("default", mine):
            raise UserError(
                f"your token is for project {mine} only.", hint=f"Leave `project` out, or set it to {mine}."
            )
        return mine or wanted

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
        which = Filter(name=found.name, project=project, kind=found.kind)
        return next(iter(self._control.listed.page(which, limit=1).runs), None)


def _refuse_foreign_folder(new: NewRun, found: Checked) -> None:
    """Tell at once that a new run's folder holds another experiment: its job would only find out later."""
    folder = folder_at(new.kind, new.storage, new.id)  # refuses an id that cannot be the name of a folder
    if found.kind == "sweep":
        return
    try:
        if not folder.storage.exists("spec.yaml"):
            return
        before = parse_spec(folder.storage.read("spec.yaml").decode(), source=f"{folder.url}/spec.yaml")
        began = any(True for _ in folder.storage.list("attempts/"))
    except StorageError as error:
        _log.warning("whether %s is free cannot be seen now: %s", folder.url, error)
        return
    if began and before.hash != found.hash:
        raise UserError(
            f"{folder.url} holds another experiment (hash {before.hash}, this one has {found.hash}).",
            hint="Take another id.",
        )


def _other_encoder(before: RunSpec, after: RunSpec) -> str | None:
    """How the encoder or its head differs, in words."""
    now = after.encoder_options
    return next(
        (f"{path} was {was}, now {now[path]}" for path, was in before.encoder_options.items() if now[path] != was), None
    )
