"""`reco stop` and `reco runs`: what there is to do with a run that somebody else started."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import RecoError, UserError
from service.cli import output
from service.cli.compare import compare_runs
from service.cli.options import StorageOption, storage_of

if TYPE_CHECKING:
    from jobs.run_folder import RunFolder

app = typer.Typer(no_args_is_help=True, help="Look into the folder of a run, or compare runs.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
POLL_SECONDS = 1.0
NO_SIGN_S = 120.0


def stop(
    run: RunId,
    storage: StorageOption = None,
    wait: Annotated[bool, typer.Option(help="Wait until the run has saved and stopped.")] = True,
) -> None:
    """Ask a run to save a checkpoint and stop, wherever it runs; `reco pretrain` with its id continues it.

    Examples:
    - `reco stop cifar10-20261123-2210`

    - `reco stop cifar10-20261123-2210 --storage s3://bucket/runs --no-wait`
    """
    folder = _folder(run, storage)
    outcome = folder.outcome()
    if outcome is not None:
        output.say(f"Run {run} is not running: it has {outcome['status']}")
        return
    folder.request_stop()
    output.note(f"run {run} saves within seconds and stops")
    if not wait:
        return
    _follow_to_the_end(folder)
    outcome = folder.outcome()
    if outcome is None or outcome["status"] == "failed":
        raise RecoError(
            f"run {run} did not stop, but failed: {outcome['error'] if outcome else 'its folder says no more'}",
            hint=f"`reco runs checkpoints {run}` shows what was saved.",
        )
    goes_on = f"; `reco pretrain SPEC --run-id {run}` continues it" if outcome["status"] == "stopped" else ""
    output.say(f"✓ Run {run} has {outcome['status']}{goes_on}")


def _follow_to_the_end(folder: RunFolder) -> None:
    from service.cli.live import LiveRun

    last, changed = None, time.monotonic()
    with LiveRun(folder, since=time.time()) as live:
        while folder.outcome() is None:
            live.refresh()
            progress = folder.progress()
            if progress != last:
                last, changed = progress, time.monotonic()
            if time.monotonic() - changed > NO_SIGN_S:
                raise RecoError(
                    f"run {folder.run_id} has given no sign of life for {NO_SIGN_S:.0f} s.",
                    hint="Its driver may be dead. Nothing is lost: the same --run-id continues from the last "
                    "checkpoint.",
                )
            time.sleep(POLL_SECONDS)


@app.command()
def checkpoints(
    run: RunId,
    storage: StorageOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read each one whole and compare its SHA-256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the checkpoints of a run, newest first, with step, size and state.

    A `whole` one can be continued from; a `damaged` one is passed over; an `unfinished` one was cut off while it was
    written, and does not count.

    Examples:
    - `reco runs checkpoints cifar10-20261123-2210`

    - `reco runs checkpoints cifar10-20261123-2210 --verify --json`
    """
    from jobs.checkpoints.manifest import survey

    found = survey(_folder(run, storage).storage, verify=verify)
    if as_json:
        output.emit([{"step": each.step, "size": each.size, "state": each.state} for each in found])
        return
    if not found:
        output.say(f"Run {run} has no checkpoint yet.")
        return
    table = output.table("Step", "Size", "State")
    for each in found:
        style = None if each.state == "whole" else "yellow"
        table.add_row(f"{each.step:,}", f"{each.size / 1e6:.1f} MB", each.state, style=style)
    output.show(table)


app.command("compare")(compare_runs)


def _folder(run: str, storage: str | None) -> RunFolder:
    from jobs.run_folder import RunFolder

    folder = RunFolder(storage_of(storage), run)
    if not folder.storage.exists("spec.yaml"):
        raise UserError(
            f"there is no run {run} in {folder.parent}.",
            hint="Name the folder or S3 prefix it was started with by --storage, or set RECO_STORAGE.",
        )
    return folder
