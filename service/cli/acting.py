"""`reco runs stop`, `resume`, `fork` and `delete`: what changes a run that is there."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import UserError
from service.cli import asking, connect, output
from service.cli.options import Detach, Overrides, RunId, Yes
from service.cli.promotion import message
from service.runs.errors import UnknownRunError
from service.runs.states import State

if TYPE_CHECKING:
    from service.contract.interface import Runs
    from service.contract.messages import RunView


def stop(
    run: RunId,
    wait: Annotated[bool, typer.Option(help="Wait until the run has saved and stopped.")] = True,
) -> None:
    """Ask a run to save a checkpoint and stop, wherever it runs; `reco runs resume` lets it go on.

    Examples:
    - `reco runs stop cifar10-20261123-2210`

    - `reco runs stop cifar10-20261123-2210 --no-wait`
    """
    from service.cli.following import Follower
    from service.cli.live import LiveRun

    with connect.service() as service:
        before = service.runs.show(run)
        if before.state.is_final:
            output.say(f"Run {run} is not running: {ended_in_words(before.state)}")
            return
        asked = service.runs.stop(run)
        if not asked.state.is_final:
            output.note(f"run {run} saves within seconds and stops")
        if not wait:
            connect.work_on()
            return
        live = LiveRun(since=before.created)
        ended = Follower(service.runs, run, live, asked.version, stopping=True).follow()
    goes_on = f"; `reco runs resume {run}` lets it go on" if ended.state is State.CANCELLED else ""
    output.say(f"✓ Run {run}: {ended_in_words(ended.state)}{goes_on}")


def resume(run: RunId, overrides: Overrides = None, detach: Detach = False) -> None:
    """Let a run that failed or was stopped go on where it stood, under its id, in its folder and its MLflow run.

    Only what leaves the experiment the same may be changed: `name`, `scale`, `checkpoint`, `register` and
    `data.bad_pictures`.

    Examples:
    - `reco runs resume photos-20261123-2210`

    - `reco runs resume photos-20261123-2210 --set scale.workers=4`
    """
    from service.contract.messages import Change

    with connect.service() as service:
        resumed = service.runs.resume(run, message(Change, overrides=overrides or []))
        _started(service.runs, resumed, detach=detach)


def fork(
    run: RunId,
    overrides: Overrides = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Name the new run.")] = None,
    detach: Detach = False,
) -> None:
    """Start a new run that begins with the weights of another's newest checkpoint; queues and optimizer are new.

    Examples:
    - `reco runs fork photos-20261123-2210 --set optimizer.lr=0.01`
    """
    from service.contract.messages import Change

    change = message(Change, overrides=overrides or [], run_id=run_id)
    with connect.service() as service:
        forked = service.runs.fork(run, change, key=uuid.uuid4().hex)
        output.note(f"run {forked.id} begins with the weights of {run}")
        _started(service.runs, forked, detach=detach)


def delete(run: RunId, yes: Yes = False) -> None:
    """Delete a run that has ended with its folder: checkpoints, records, logs. What is registered in MLflow stays.

    Examples:
    - `reco runs delete photos-20261123-2210`
    """
    with connect.service() as service:
        try:
            found = service.runs.show(run)
        except UnknownRunError:
            found = None  # perhaps deleted halfway: `delete` ends that, or says that there is no such run
        if found is not None and found.state.is_final and not yes:  # one that has not is refused below, unasked
            kept = service.runs.checkpoints(run)
            size = sum(each.size for each in kept) / 1e6
            what = f"{len(kept)} checkpoints ({size:,.1f} MB)" if len(kept) != 1 else f"a checkpoint ({size:,.1f} MB)"
            if not asking.at_terminal():
                raise UserError(
                    f"run {run} has {what}, its records and its logs: deleting it asks first.",
                    hint="Say `--yes` where nobody can be asked.",
                )
            if not asking.agreed(f"Delete {what}, records and logs of run {run}", otherwise=False):
                output.note("nothing was deleted")
                raise typer.Exit(1)
        deleted = service.runs.delete(run)
    output.say(f"✓ Run {run} is deleted: {deleted.objects} files, {deleted.bytes / 1e6:,.1f} MB")


def ended_in_words(state: State) -> str:
    """A state that is final, as the end of a sentence."""
    return {State.SUCCEEDED: "it has succeeded", State.CANCELLED: "it was stopped"}.get(state, f"it has {state}")


def _started(runs: Runs, run: RunView, *, detach: bool) -> None:
    from service.cli.following import follow_to_the_end

    if detach:
        connect.work_on()
        output.say(run.id)
        return
    follow_to_the_end(runs, run, since=datetime.now(UTC))
