"""`reco sweep`: search a run's options, watch it, take it up again, and see what is best."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.errors import RecoError, UserError
from service.cli import foreground, output
from service.cli.child import python
from service.cli.explaining import explain_options
from service.cli.home import home
from service.cli.options import AsJson, Overrides, StorageOption, set_flags, storage_of

if TYPE_CHECKING:
    from jobs.spec import Sweep
    from jobs.sweeps.folder import SweepFolder
    from service.cli.leaderboard import Leaderboard

app = typer.Typer(no_args_is_help=True, help="Search the options of a run with Ray Tune.")

SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep's id.", show_default=False)]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The sweep's spec, a YAML file.", show_default=False)]
Then = Annotated[
    Literal["full"] | None,
    typer.Option("--then", help="`full` trains the best configuration as the base is trained, and registers it."),
]
POLL_SECONDS = 1.0
NO_SIGN_S = 120.0


@app.command()
def preview(spec: SpecFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a sweep will cost, after measuring its base for about half a minute.

    Examples:
    - `reco sweep preview examples/sweeps/cifar10-cpu.yaml`

    - `reco sweep preview sweep.yaml --set trials=40 --json`
    """
    from jobs.job_folder import error_of
    from jobs.spec import load_sweep

    load_sweep(spec, overrides or [])
    output.note("measuring the base for about half a minute")
    with tempfile.TemporaryDirectory(prefix="reco-preview-", ignore_cleanup_errors=True) as temporary:
        command = python("jobs.sweep", "preview", str(spec), "--id", "preview", "--storage", temporary)
        command += ["--home", str(home()), *set_flags(overrides)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines()
    if not lines:
        raise RecoError(f"the preview ended without a word: {(ran.stderr.splitlines() or ['no output'])[-1]}")
    found = json.loads(lines[-1])
    if "error" in found:
        raise error_of(found)
    if as_json:
        output.emit(found)
        return
    _show_preview(found)


@app.command()
def run(
    spec: SpecFile,
    overrides: Overrides = None,
    sweep_id: Annotated[str | None, typer.Option("--id", help="Name a new sweep, or continue the one of it.")] = None,
    storage: StorageOption = None,
    then: Then = None,
) -> None:
    """Carry out a sweep, in the foreground, on this machine or on the cluster at `RAY_ADDRESS`.

    Ctrl-C saves the trials under way and stops; `reco sweep resume` goes on with them, as it does after any failure.

    Examples:
    - `reco sweep run examples/sweeps/cifar10-cpu.yaml`

    - `reco sweep run sweep.yaml --set trials=40 --set budget.wall_time=12h --then full`
    """
    from jobs.spec import load_sweep
    from jobs.sweeps.folder import SweepFolder

    sweep = load_sweep(spec, overrides or [])
    sweep_id = sweep_id or f"{sweep.spec.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = SweepFolder(storage_of(storage), sweep_id)
    folder.claim(sweep)
    _carry_out(folder, sweep, then)


@app.command()
def resume(sweep: SweepId, overrides: Overrides = None, storage: StorageOption = None, then: Then = None) -> None:
    """Go on with a sweep that was stopped, killed, or is to have more trials.

    Examples:
    - `reco sweep resume photos-sweep-20261125-0900`

    - `reco sweep resume photos-sweep-20261125-0900 --set trials=40 --then full`
    """
    from jobs.spec import parse_sweep

    folder, known = _open(sweep, storage)
    if overrides:
        text = folder.storage.read("sweep.yaml").decode()
        known = parse_sweep(text, known.base, overrides, source=f"{folder.url}/sweep.yaml")
        folder.claim(known)
    outcome = folder.outcome()
    if then is None and outcome is not None and outcome["status"] == "succeeded":
        done = sum(trial.ended is not None for trial in _board(folder, known).trials())
        if done >= known.trials:
            output.say(f"Sweep {sweep} has succeeded: all of its {known.trials} trials are done")
            output.note("`--set trials=…` gives it more, `--then full` trains the best one")
            return
    _carry_out(folder, known, then)


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
    folder, known = _open(sweep, storage)
    board = _board(folder, known)
    if as_json:
        from jobs.sweeps.report import as_rows

        outcome = folder.outcome()
        status = outcome["status"] if outcome is not None else "running"
        output.emit({"sweep": sweep, "status": status, "trials": as_rows(known, board.trials())})
        return
    if follow and folder.outcome() is None:
        _follow(folder, board)
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
    from jobs.job_folder import error_of

    folder, known = _open(sweep, storage)
    outcome = folder.outcome()
    if outcome is not None:
        output.say(f"Sweep {sweep} is not running: it has {outcome['status']}")
        return
    folder.request_stop()
    output.note(f"sweep {sweep} saves its trials within seconds and stops")
    if not wait:
        return
    _follow(folder, _board(folder, known))
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

    folder, known = _open(sweep, storage)
    board = _board(folder, known)
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

    folder, known = _open(sweep, storage)
    trial = best_of(_board(folder, known).trials(), mode=known.spec.objective.mode)
    if trial is None:
        raise UserError(
            f"no trial of sweep {sweep} has come to its end yet.",
            hint=f"`reco sweep show {sweep}` shows how far it is.",
        )
    output.say(f"# trial {trial.number} of sweep {sweep}: {known.metric} {trial.objective:.4g}")
    output.say(to_yaml(known.full(trial.values)).rstrip())


def _carry_out(folder: SweepFolder, sweep: Sweep, then: str | None) -> None:
    """Run the job of a claimed sweep and tell how it ended."""
    output.note(f"sweep {folder.sweep_id}   folder {folder.url}   log {foreground.log_of(folder)}")
    command = python("jobs.sweep", "run", "--id", folder.sweep_id, "--storage", folder.parent, "--home", str(home()))
    command += ["--then-full"] if then == "full" else []
    goes_on = f"`reco sweep resume {folder.sweep_id}` goes on with the same trials"
    with _board(folder, sweep) as board:
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


def _follow(folder: SweepFolder, board: Leaderboard) -> None:
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


def _show_preview(found: dict[str, Any]) -> None:
    wall, low, high = (_duration(found[name]) for name in ("wall_s", "low_wall_s", "high_wall_s"))
    early, at_once = found["configurations_early"], found["concurrency"]
    lines = {
        "trials": f"{found['trials']}, {at_once} at a time; about {early:.0f} are stopped early",
        "judged": f"at rungs after epochs {', '.join(map(str, found['rungs']))}",
        "epochs": f"{found['total_epochs']:.0f} in all, likely {found['low_epochs']:.0f} to {found['high_epochs']:.0f}",
        "wall time": f"{wall}, likely {low} to {high}",
        "GPU-hours": f"{found['gpu_hours']:.1f}",
        "storage": f"up to {found['storage_bytes'] / 1e9:.1f} GB of checkpoints",
        "memory": f"{found['host_bytes'] / 1e9:.1f} GB a worker, {found['gpu_bytes'] / 1e9:.1f} GB on its GPU",
        "measured": f"{found['step_s']:.3f} s a step, {found['probe_s']:.1f} s a judgement, "
        f"{found['around_s']:.0f} s around each run",
    }
    for name, words in lines.items():
        output.say(f"{name:<11} {words}")
    for warning in found["warnings"]:
        output.say(f"! {warning}")


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.1f} h"


def _board(folder: SweepFolder, sweep: Sweep) -> Leaderboard:
    from service.cli.leaderboard import Leaderboard

    return Leaderboard(folder, sweep)


def _open(sweep_id: str, storage: str | None) -> tuple[SweepFolder, Sweep]:
    from jobs.sweeps.folder import SweepFolder

    folder = SweepFolder(storage_of(storage), sweep_id)
    if not folder.storage.exists("sweep.yaml"):
        raise UserError(
            f"there is no sweep {sweep_id} in {folder.parent}.",
            hint="Name the folder or S3 prefix it was started with by --storage, or set RECO_STORAGE.",
        )
    return folder, folder.sweep()
