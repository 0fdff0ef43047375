"""`reco sweep`: search a run's options, watch it, take it up again, and see what is best."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.errors import UserError
from service.cli import connect, output, submitted
from service.cli.explaining import explain_options
from service.cli.options import AsJson, Detach, Overrides, ProjectOption, StorageOption, SweepFile, Yes
from service.cli.preview import preview
from service.cli.sweep_folder import board_of, carry_out, folder_of, follow_sweep, open_sweep

app = typer.Typer(no_args_is_help=True, help="Search the options of a run with Ray Tune.")

SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep's id.", show_default=False)]
Then = Annotated[
    Literal["full"] | None,
    typer.Option("--then", help="`full` trains the best configuration as the base is trained, and registers it."),
]

app.command()(preview)


@app.command()
def run(
    spec: SweepFile,
    overrides: Overrides = None,
    sweep_id: Annotated[str | None, typer.Option("--id", help="Name a new sweep, or continue the one of it.")] = None,
    storage: StorageOption = None,
    then: Then = None,
    project: ProjectOption = "default",
    yes: Yes = False,
    detach: Detach = False,
) -> None:
    """Carry out a sweep, in the foreground, on this machine or on the cluster at `RAY_ADDRESS`.

    Ctrl-C saves the trials under way and stops; `reco sweep resume` goes on with them, as it does after any failure.
    With `RECO_API`, or with `--detach`, the service carries it out instead, and keeps at it.

    Examples:
    - `reco sweep run examples/sweeps/cifar10-cpu.yaml`

    - `reco sweep run sweep.yaml --set trials=40 --set budget.wall_time=12h --then full`

    - `reco sweep run sweep.yaml -y --detach`
    """
    if connect.api() is not None or detach:
        submitted.submit(
            spec,
            overrides or [],
            sweep_id=sweep_id,
            storage=storage,
            project=project,
            then_full=then == "full",
            yes=yes,
            detach=detach,
        )
        return
    from jobs.spec import load_sweep

    sweep = load_sweep(spec, overrides or [])
    if sweep_id is not None:
        submitted.refuse(sweep_id)
    sweep_id = sweep_id or f"{sweep.spec.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = folder_of(sweep_id, storage)
    folder.claim(sweep)
    carry_out(folder, sweep, then)


@app.command()
def resume(sweep: SweepId, overrides: Overrides = None, storage: StorageOption = None, then: Then = None) -> None:
    """Go on with a sweep that was stopped, killed, or is to have more trials.

    Examples:
    - `reco sweep resume photos-sweep-20261125-0900`

    - `reco sweep resume photos-sweep-20261125-0900 --set trials=40 --then full`
    """
    # One that the service carries out is its own: two drivers would take each other's place.
    if submitted.resume(sweep, overrides or [], then_full=then == "full"):
        return
    from jobs.spec import parse_sweep

    folder, known = open_sweep(sweep, storage)
    if overrides:
        text = folder.storage.read("sweep.yaml").decode()
        known = parse_sweep(text, known.base, overrides, source=f"{folder.url}/sweep.yaml")
        folder.claim(known)
    outcome = folder.outcome()
    if then is None and outcome is not None and outcome["status"] == "succeeded":
        done = sum(trial.ended is not None for trial in board_of(folder, known).trials())
        if done >= known.trials:
            output.say(f"Sweep {sweep} has succeeded: all of its {known.trials} trials are done")
            output.note("`--set trials=…` gives it more, `--then full` trains the best one")
            return
    carry_out(folder, known, then)


@app.command()
def show(
    sweep: SweepId,
    storage: StorageOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing it until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the leaderboard of a sweep, whoever carries it out.

    Examples:
    - `reco sweep show photos-sweep-20261125-0900 --follow`
    """
    by_service = connect.api() is not None or not folder_of(sweep, storage).storage.exists("sweep.yaml")
    if by_service and submitted.show(sweep, follow=follow, as_json=as_json):
        return
    folder, known = open_sweep(sweep, storage)
    board = board_of(folder, known)
    if as_json:
        from jobs.sweeps.report import as_rows

        outcome = folder.outcome()
        status = outcome["status"] if outcome is not None else "running"
        output.emit({"sweep": sweep, "status": status, "trials": as_rows(known, board.trials())})
        return
    if follow and folder.outcome() is None:
        follow_sweep(folder, board)
    output.show(board.picture())
    outcome = folder.outcome()
    if outcome is not None:
        why = outcome.get("error") or outcome.get("reason")
        output.say(f"The sweep has {outcome['status']}" + (f": {why}" if why else ""))


@app.command()
def stop(
    sweep: SweepId,
    storage: StorageOption = None,
    wait: Annotated[bool, typer.Option(help="Wait until it has saved and stopped.")] = True,
) -> None:
    """Ask a sweep to save the trials under way and stop, wherever it runs; `reco sweep resume` continues it.

    Examples:
    - `reco sweep stop photos-sweep-20261125-0900`
    """
    # First: a run of the service that stops by itself was interrupted, and is started again.
    if submitted.stop(sweep, wait=wait):
        return
    from jobs.job_folder import error_of

    folder, known = open_sweep(sweep, storage)
    outcome = folder.outcome()
    if outcome is not None:
        output.say(f"Sweep {sweep} is not running: it has {outcome['status']}")
        return
    folder.request_stop()
    output.note(f"sweep {sweep} saves its trials within seconds and stops")
    if not wait:
        return
    follow_sweep(folder, board_of(folder, known))
    outcome = folder.outcome()
    assert outcome is not None
    if outcome["status"] == "failed":
        raise error_of(outcome)
    goes_on = f"; `reco sweep resume {sweep}` continues it" if outcome["status"] == "stopped" else ""
    output.say(f"✓ Sweep {sweep} has {outcome['status']}{goes_on}")


@app.command()
def results(
    sweep: SweepId,
    storage: StorageOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report with pictures to this file.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line for each trial, separated by commas.")] = False,
) -> None:
    """Show what every trial was worth, the best first.

    Examples:
    - `reco sweep results photos-sweep-20261125-0900`

    - `reco sweep results photos-sweep-20261125-0900 --html report.html`
    """
    from jobs.sweeps.report import as_rows, column_names, write_report

    folder, known = open_sweep(sweep, storage)
    board = board_of(folder, known)
    if html is not None:
        with tempfile.TemporaryDirectory() as temporary:
            made = write_report(known, board.trials(), Path(temporary), sweep_id=sweep)
            html.write_bytes(made.read_bytes())
        output.note(f"✓ {html}", style=None)
    rows = as_rows(known, board.trials())
    if as_json:
        output.emit(rows)
    elif as_csv:
        output.emit_csv(rows, column_names(known))
    elif html is None:
        output.show(board.picture())


@app.command()
def explain(
    path: Annotated[
        str | None, typer.Argument(metavar="[PATH]", help="A section or an option, such as `scheduler.reduction`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain every option of a sweep, or those below PATH: type, default, allowed values and purpose.

    Examples:
    - `reco sweep explain`

    - `reco sweep explain budget`
    """
    from jobs.spec.sweep import SweepSpec

    explain_options(SweepSpec, path, command="reco sweep explain", as_json=as_json)


@app.command()
def best(sweep: SweepId, storage: StorageOption = None) -> None:
    """Print the best configuration as the spec of a run.

    Examples:
    - `reco sweep best photos-sweep-20261125-0900 > best.yaml`
    """
    from jobs.spec import to_yaml
    from jobs.sweeps.ledger import best_of

    folder, known = open_sweep(sweep, storage)
    trial = best_of(board_of(folder, known).trials(), mode=known.spec.objective.mode)
    if trial is None:
        raise UserError(
            f"no trial of sweep {sweep} has come to its end yet.",
            hint=f"`reco sweep show {sweep}` shows how far it is.",
        )
    output.say(f"# trial {trial.number} of sweep {sweep}: {known.metric} {trial.objective:.4g}")
    output.say(to_yaml(known.full(trial.values)).rstrip())
