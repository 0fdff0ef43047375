"""Sweeps that the service carries out: submitted, shown, stopped and resumed through it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.errors import UserError
from service.cli import connect, output
from service.cli.promotion import message
from service.runs.errors import UnknownRunError

if TYPE_CHECKING:
    from service.contract.interface import Runs
    from service.contract.messages import RunDetails


def submit(
    spec: Path,
    overrides: list[str],
    *,
    sweep_id: str | None,
    storage: str | None,
    project: str,
    then_full: bool,
    yes: bool,
    detach: bool,
) -> None:
    """Show the plan of a sweep, ask, submit it, and follow its leaderboard unless told to `detach`."""
    from service.cli.following import follow_to_the_end
    from service.cli.planning import confirmed, sweep_of

    submission = sweep_of(spec, overrides, run_id=sweep_id, project=project, then_full=then_full)
    with connect.service(storage) as service:
        plan = service.runs.plan(submission)
        if not confirmed(plan, yes=yes):
            output.note("nothing was started")
            raise typer.Exit(1)
        run = service.runs.submit(submission.model_copy(update={"run_id": plan.run_id}), key=uuid.uuid4().hex)
        if detach:
            connect.work_on()
            output.say(run.id)
            return
        follow_to_the_end(service.runs, run)


def show(sweep: str, *, follow: bool, as_json: bool) -> bool:
    """Show the leaderboard; returns False where the service knows no such sweep."""
    from service.cli.following import follow_to_the_end
    from service.cli.leaderboard import LiveBoard

    with connect.service() as service:
        found = _known(service.runs, sweep)
        if found is None:
            return False
        if as_json:
            board = service.runs.board(sweep)
            output.emit({"status": found.state, **board.model_dump(mode="json")})
        elif follow and not found.state.is_final:
            follow_to_the_end(service.runs, found, viewing=True)
        else:
            output.show(LiveBoard(service.runs, since=found.created).picture(found))
        return True


def stop(sweep: str, *, wait: bool) -> bool:
    """Ask it to save and stop; returns False where the service knows no such sweep."""
    from service.cli import acting

    with connect.service() as service:
        if _known(service.runs, sweep) is None:
            return False
    acting.stop(sweep, wait=wait)
    return True


def resume(sweep: str, overrides: list[str], *, then_full: bool) -> bool:
    """Let it go on, and follow it; returns False where the service knows no such sweep.

    Raises:
        UserError: It is to train its best in full, which is said when a sweep is submitted.
    """
    from service.cli.following import follow_to_the_end
    from service.contract.messages import Change

    with connect.service() as service:
        if _known(service.runs, sweep) is None:
            return False
        if then_full:
            raise UserError(
                "a sweep of the service is told when it is submitted whether its best is trained in full.",
                hint=f"`reco sweep best {sweep} > best.yaml`, then `reco pretrain best.yaml`.",
            )
        resumed = service.runs.resume(sweep, message(Change, overrides=overrides))
        follow_to_the_end(service.runs, resumed, since=datetime.now(UTC))
        return True


def refuse(sweep: str) -> None:
    """Do nothing unless the service knows such a sweep.

    Raises:
        UserError: It does, and carries it out itself: of two drivers, each would take the other's place.
    """
    with connect.service() as service:
        if _known(service.runs, sweep) is not None:
            raise UserError(
                f"there is a sweep {sweep} already, which the service carries out.",
                hint=f"`reco sweep resume {sweep}` lets it go on; give a new one another --id.",
            )


def place_of(sweep: str) -> str:
    """The folder or S3 prefix that holds a sweep of the service."""
    with connect.service() as service:
        return service.runs.show(sweep).storage


def _known(runs: Runs, sweep: str) -> RunDetails | None:
    try:
        return runs.show(sweep)
    except UnknownRunError:
        return None
