"""A sweep in its folder: opened, and carried out in the foreground without the service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from jobs.errors import RecoError, UserError
from service.child import python
from service.cli import connect, foreground, output, submitted
from service.cli.home import home
from service.cli.options import storage_of

if TYPE_CHECKING:
    from jobs.spec import Sweep
    from jobs.sweeps.folder import SweepFolder
    from service.cli.leaderboard import Leaderboard

POLL_SECONDS = 1.0
NO_SIGN_S = 120.0


def carry_out(folder: SweepFolder, sweep: Sweep, then: str | None) -> None:
    """Run the job of a claimed sweep and tell how it ended."""
    output.note(f"sweep {folder.sweep_id}   folder {folder.url}   log {foreground.log_of(folder)}")
    command = python("jobs.sweep", "run", "--id", folder.sweep_id, "--storage", folder.parent, "--home", str(home()))
    command += ["--then-full"] if then == "full" else []
    goes_on = f"`reco sweep resume {folder.sweep_id}` goes on with the same trials"
    with board_of(folder, sweep) as board:
        outcome = foreground.carry_out(command, folder, watch=board.refresh, say=board.say, goes_on=goes_on)
    output.show(board.picture())
    if outcome["status"] == "stopped":
        output.note(f"stopped and saved: {outcome['reason']}", style="yellow")
        output.note(f"continue with: reco sweep resume {folder.sweep_id}", style="yellow")
        raise typer.Exit(outcome["exit_code"])
    output.say(f"✓ tracked at {outcome['tracking_url']}")
    if outcome.get("model"):
        output.say(f"✓ registered {outcome['model']}; look at it with: reco models show {outcome['model']}")
    output.say(f"  the best as a run's spec: reco sweep best {folder.sweep_id} > best.yaml")
    output.say(f"  with pictures:            reco sweep results {folder.sweep_id} --html report.html")


def follow_sweep(folder: SweepFolder, board: Leaderboard) -> None:
    """Show a sweep until it ends.

    Raises:
        RecoError: Nothing has changed for too long.
    """
    with board:
        while folder.outcome() is None:
            board.refresh()
            if board.seconds_unchanged > NO_SIGN_S:
                raise RecoError(
                    f"sweep {folder.sweep_id} has given no sign of life for {NO_SIGN_S:.0f} s.",
                    hint=f"Its driver may be dead. Nothing is lost: `reco sweep resume {folder.sweep_id}` goes on.",
                )
            time.sleep(POLL_SECONDS)


def board_of(folder: SweepFolder, sweep: Sweep) -> Leaderboard:
    """The leaderboard that the folder tells."""
    from service.cli.leaderboard import Leaderboard

    return Leaderboard(folder, sweep)


def open_sweep(sweep_id: str, storage: str | None) -> tuple[SweepFolder, Sweep]:
    """The folder of a sweep that is there, and what it searches.

    Raises:
        UserError: There is no such sweep.
    """
    if storage is None and connect.api() is not None:
        storage = submitted.place_of(sweep_id)
    folder = folder_of(sweep_id, storage)
    if not folder.storage.exists("sweep.yaml"):
        raise UserError(
            f"there is no sweep {sweep_id} in {folder.parent}.",
            hint="Name the folder or S3 prefix it was started with by --storage, or set RECO_STORAGE.",
        )
    return folder, folder.sweep()


def folder_of(sweep_id: str, storage: str | None) -> SweepFolder:
    """The folder of a sweep, whether or not it is there."""
    from jobs.sweeps.folder import SweepFolder

    return SweepFolder(storage_of(storage), sweep_id)
