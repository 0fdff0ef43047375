"""`reco tracking`: the local MLflow server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from service.cli import output
from service.cli.home import home

app = typer.Typer(no_args_is_help=True, help="Start, stop or look at the local MLflow server.")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def start(as_json: AsJson = False) -> None:
    """Start the local MLflow server, if it does not run yet, and print its address.

    Commands that need it start it themselves. With MLFLOW_TRACKING_URI set, that server is checked and none is started.

    Examples:
    - `reco tracking start`
    """
    from jobs.tracking.client import shown
    from jobs.tracking.server import tracking_uri

    uri = shown(tracking_uri(home(), progress=output.note))
    if as_json:
        output.emit({"uri": uri, "local": not _named()})
        return
    output.say(f"✓ MLflow answers at {uri}" + (" (MLFLOW_TRACKING_URI)" if _named() else ""))


@app.command()
def stop(as_json: AsJson = False) -> None:
    """Stop the local MLflow server. What it stored stays, and the next start has the same address.

    Examples:
    - `reco tracking stop`
    """
    from jobs.tracking.server import stop_server

    stopped = stop_server(home())
    if as_json:
        output.emit({"stopped": stopped})
        return
    output.say("✓ The local MLflow server is stopped" if stopped else "The local MLflow server was not running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show whether the local MLflow server runs, where, and what it takes; it is not started.

    Examples:
    - `reco tracking status`
    """
    from jobs.tracking.client import shown
    from jobs.tracking.server import server_status

    state = server_status(home())
    if as_json:
        started = state.started.isoformat() if state.started else None
        content = {"running": state.running, "uri": state.uri, "pid": state.pid, "started": started}
        output.emit(content | {"memory_bytes": state.memory_bytes, "folder": str(state.folder)})
        return
    if state.running and state.started:
        output.say(f"✓ MLflow answers at {state.uri}")
        output.say(f"  since    {state.started.astimezone():%Y-%m-%d %H:%M}, process {state.pid}")
        output.say(f"  memory   {state.memory_bytes / 2**20:.0f} MiB")
    else:
        output.say("The local MLflow server is not running; `reco tracking start` starts it")
    output.say(f"  folder   {state.folder}")
    if _named():
        output.say(f"! MLFLOW_TRACKING_URI is set: commands use {shown(_named())} instead")


def _named() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip()
