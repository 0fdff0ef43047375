"""`reco pretrain`: show what will happen, ask, start it, and follow it to its end."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import UserError
from service.cli import connect, output
from service.cli.options import Detach, Overrides, ProjectOption, StorageOption, Yes
from service.runs.errors import RunExistsError, UnknownRunError
from service.runs.states import State

if TYPE_CHECKING:
    from jobs.spec import RunSpec
    from service.contract.interface import Runs
    from service.contract.messages import RunDetails, RunView


def pretrain(
    spec: Annotated[Path, typer.Argument(help="The run's spec, a YAML file.", metavar="SPEC")],
    overrides: Overrides = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="Name a new run, or go on with the one of that id.")
    ] = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and start nothing.")] = False,
    detach: Detach = False,
    project: ProjectOption = "default",
    storage: StorageOption = None,
) -> None:
    """Pretrain an encoder: show the plan, ask, start the run, and follow it to its end.

    The run does not depend on this command. Ctrl-C asks whether to leave it alone or to save and stop it; without a
    terminal it saves and stops. An id that exists is attached to while it runs, and goes on where it stood if it failed
    or was stopped.

    Exit code 0 for an encoder, 1 or 2 for a run that failed (2 where you can mend it), 130 for one that was stopped.

    Examples:
    - `reco pretrain examples/cifar10-cpu.yaml`

    - `reco pretrain run.yaml --set optimizer.lr=0.03 --set scale.workers=4 --dry-run`

    - `reco pretrain run.yaml -y --detach`

    - `reco pretrain run.yaml --run-id cifar10-20261123-2210`
    """
    from service.cli.following import follow_to_the_end
    from service.cli.planning import confirmed, picture_of, run_of

    submission, loaded = run_of(spec, overrides or [], run_id=run_id, project=project)
    if storage is not None and connect.api() is not None:
        output.note("! the service at RECO_API keeps runs in a place of its own; --storage is passed over")
    with connect.service(storage) as service:
        runs = service.runs
        before = _known(runs, run_id)
        if before is None:
            plan = runs.plan(submission)
            if dry_run:
                output.show(picture_of(plan))
                return
            if not confirmed(plan, yes=yes):
                output.note("nothing was started")
                raise typer.Exit(1)
            key = uuid.uuid4().hex  # an answer that was lost on its way must not become a second run
            try:
                run = runs.submit(submission.model_copy(update={"run_id": plan.run_id}), key=key)
            except RunExistsError:
                if run_id is not None:
                    raise
                run = runs.submit(submission, key=uuid.uuid4().hex)  # another took that id while the plan was read
            since = run.created
        else:
            if dry_run:
                output.say(f"Run {before.id} is there already ({before.state}): {before.reason}")
                return
            run = _taken_up(runs, before, loaded)
            since = run.created if run is before else datetime.now(UTC)
        output.note(f"run {run.id}   {run.storage.rstrip('/')}/{run.id}   log: reco runs logs {run.id}")
        if detach:
            connect.work_on()
            output.say(run.id)
            return
        follow_to_the_end(runs, run, since=since)


def _known(runs: Runs, run_id: str | None) -> RunDetails | None:
    if run_id is None:
        return None
    try:
        return runs.show(run_id)
    except UnknownRunError:
        return None


def _taken_up(runs: Runs, before: RunDetails, spec: RunSpec) -> RunView:
    """A run that exists: as it is while it is at work, resumed where it failed or was stopped.

    Raises:
        UserError: It has succeeded, or is another experiment.
    """
    from service.contract.messages import Change

    if before.kind != "run" or before.spec_hash != spec.hash:
        what = "a sweep" if before.kind == "sweep" else f"with another spec (hash {before.spec_hash}, now {spec.hash})"
        raise UserError(
            f"run {before.id} exists {'as ' if before.kind == 'sweep' else ''}{what}.",
            hint=f"Go on with the spec it was started with (`reco runs resume {before.id}`), start a new run under "
            "another --run-id, or fork it: a new run that begins with its weights.",
        )
    if before.state is State.SUCCEEDED:
        raise UserError(
            f"run {before.id} has succeeded already.",
            hint=f"`reco runs show {before.id}` says what it gave; a new run needs another --run-id.",
        )
    if not before.state.is_final:
        output.note(f"run {before.id} is {before.state} already: attached to it")
        return before
    return runs.resume(before.id, Change(overrides=_changes(before.spec, spec)))


def _changes(before: str, spec: RunSpec) -> list[str]:
    """Overrides that make the stored spec the one that is given, of what may change within an experiment."""
    import json

    from jobs.spec import OUTSIDE_THE_HASH, parse_spec

    was, now = (each.model_dump(mode="json", include=OUTSIDE_THE_HASH) for each in (parse_spec(before), spec))
    changed = {name: value for name, value in now.items() if name != "data" and value != was[name]}
    changed |= {f"data.{name}": value for name, value in now["data"].items() if value != was["data"][name]}
    return [f"{path}={json.dumps(value)}" for path, value in changed.items()]
