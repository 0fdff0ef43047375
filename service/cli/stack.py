"""`reco up` and `reco down`: the whole service on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import output
from service.cli.home import home

if TYPE_CHECKING:
    import subprocess

    from jobs.errors import RecoError
    from service.stack.layout import Layout
    from service.stack.record import Options, StackRecord

_POLL_S = 0.2
_TRIED_AGAIN_S = 3.0
_LEADERLESS_S = 60.0  # a leader that died is started again by then

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and take the stack down at Ctrl-C or SIGTERM.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Only tell how the stack is; exit code 1 unless well.")
    ] = False,
    s3: Annotated[
        Path | None, typer.Option("--s3", metavar="FOLDER", help="Serve a folder as S3, too: its folders are buckets.")
    ] = None,
    without_ray: Annotated[
        bool, typer.Option("--without-ray", help="No Ray head: runs are processes of this machine.")
    ] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of the API and its pages.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="That Ray may share out; all cores by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start the whole service on this machine: MLflow, Ray, leader, API with its pages, and S3 if asked for.

    What runs already is left alone, what is missing or died is started. It goes on when this command has ended, until
    `reco down`. Everything listens on 127.0.0.1 only.

    Examples:
    - `reco up`

    - `reco up --s3 ~/buckets`

    - `reco up --status`

    - `. ~/.reco/service.env` (then `reco` talks to it)
    """
    from service.cli.stack_shown import is_well, tell
    from service.stack.kinds import check_programs
    from service.stack.layout import Layout
    from service.stack.record import Options, read

    layout = Layout(home())
    if status:
        record = read(layout.record)
        tell(record, layout, as_json=as_json)
        raise typer.Exit(0 if is_well(record) else 1)
    layout.make()
    asked = Options(ray=not without_ray, s3=None if s3 is None else s3.expanduser().absolute(), port=port, cpus=cpus)
    check_programs(asked)
    process = _begin(layout, asked, foreground=foreground)
    record = _await_up(layout, process)
    tell(record, layout, as_json=as_json)
    if foreground and process is not None:
        _stay(layout, process)


def down(
    wait: Annotated[bool, typer.Option("--wait", help="First wait until no run is left that has not ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the service on this machine, and everything it has started.

    Runs under way are asked to save, for a minute at most; they go on where they stood after the next `reco up`.

    Examples:
    - `reco down`

    - `reco down --wait` (let runs come to their end first)
    """
    from service.stack.layout import Layout
    from service.stack.processes import marked
    from service.stack.record import read

    layout = Layout(home())
    record = read(layout.record)
    if wait:
        _await_idle(layout)
    there = record.supervised or (record.phase != "down" and bool(record.parts)) or bool(marked(str(layout.home)))
    if there:
        _take_down(layout)
    if as_json:
        output.emit({"stopped": there})
    else:
        output.say("✓ The service is stopped; `reco up` starts it again" if there else "The service was not running")


def _begin(layout: Layout, asked: Options, *, foreground: bool) -> subprocess.Popen[bytes] | None:
    """See to it that there is a supervisor; returns it where this command has started it."""
    import signal

    from jobs.errors import UserError
    from service.stack.lifecycle import launch_supervisor
    from service.stack.record import Options, read

    record = read(layout.record)
    if record.supervised and record.phase == "stopping":
        output.note("The service is being stopped; waiting for that")
        while (record := read(layout.record)).supervised and record.phase == "stopping":
            time.sleep(_POLL_S)
    given = asked != Options()
    # What did not end by `reco down` goes on as it was.
    options = asked if given or record.phase == "down" else record.options
    if record.supervised:
        if given and asked != record.options:
            raise UserError(
                "the service runs already, with other options.", hint="`reco down` first, then `reco up` with these."
            )
        if foreground:
            raise UserError("the service runs already, in the background.", hint="`reco down` first.")
        assert record.supervisor is not None
        record.supervisor.signal(signal.SIGHUP)  # what was given up is tried again
        return None
    return launch_supervisor(layout, options, tied=foreground)


def _await_up(layout: Layout, process: subprocess.Popen[bytes] | None) -> StackRecord:
    """Show how the parts come up, until all have; what this command has begun does not stay half-started."""
    from jobs.errors import RecoError
    from service.cli.stack_shown import Shown, is_well
    from service.stack.lifecycle import BUSY
    from service.stack.record import read

    began = time.time()
    shown = Shown()
    try:
        with shown:
            while True:
                record = read(layout.record)
                code = None if process is None else process.poll()
                if code == BUSY:  # another `reco up` was faster
                    process = code = None
                if code is not None or (process is None and not record.supervised and time.time() - began > 5):
                    raise _why_not(layout)
                mine = process is None or (record.supervisor is not None and record.supervisor.pid == process.pid)
                if mine and record.supervised:
                    shown.update(record)
                    if is_well(record):
                        return record
                    # An earlier failure is being tried again at this moment.
                    lost = [name for name, each in record.parts.items() if each.state == "failed"]
                    if lost and time.time() - began > _TRIED_AGAIN_S:
                        raise _lost(record, lost[0])
                time.sleep(_POLL_S)
    except (KeyboardInterrupt, RecoError) as reason:
        if process is not None and process.poll() is None:
            output.note(
                "Stopping what was started" if isinstance(reason, RecoError) else "Ctrl-C: stopping what was started"
            )
            process.terminate()
            process.wait()
        raise


def _stay(layout: Layout, process: subprocess.Popen[bytes]) -> None:
    """Wait for the supervisor, and end it with this command."""
    from jobs.errors import UserError
    from service.cli.interrupts import Interrupts
    from service.cli.stack_shown import Shown
    from service.stack.lifecycle import BUSY
    from service.stack.record import read

    output.note("Ctrl-C stops it")
    with Shown() as shown, Interrupts() as heard:
        while process.poll() is None:
            if heard.wait(_POLL_S):
                heard.forget()
                process.terminate()
                output.note("Stopping; runs under way save")
                process.wait()
            shown.update(read(layout.record))
    if process.returncode == BUSY:  # another `reco up` was faster
        raise UserError("the service runs already, in the background.", hint="`reco down` first.")
    if process.returncode != 0:
        raise _why_not(layout)
    output.say("✓ The service is stopped")


def _take_down(layout: Layout) -> None:
    import signal

    from jobs.errors import RecoError
    from service.cli.stack_shown import Shown
    from service.stack.lifecycle import bring_down
    from service.stack.processes import marked
    from service.stack.record import read

    with Shown() as shown:
        record = read(layout.record)
        if record.supervised and record.supervisor is not None:
            record.supervisor.signal(signal.SIGTERM)
            while record.supervisor.alive:
                shown.update(read(layout.record))
                time.sleep(_POLL_S)
            shown.update(read(layout.record))
        # A supervisor that was killed leaves the work to us.
        deadline = time.monotonic() + 10
        while (read(layout.record).phase != "down" or marked(str(layout.home))) and not bring_down(layout):
            if time.monotonic() > deadline:
                raise RecoError("another `reco up` or `reco down` is at work.", hint="Run this again in a moment.")
            time.sleep(_POLL_S)


def _await_idle(layout: Layout) -> None:
    """Wait until every run has ended, as long as somebody works on them."""
    from service.runs.database import open_database
    from service.runs.leadership import somebody_leads
    from service.runs.leases import Leases
    from service.runs.listing import RunList
    from service.settings import Settings
    from service.stack.record import read

    told, led = -1, time.monotonic()
    # The stack's, whatever this shell says.
    url = read(layout.record).told.get("RECO_DATABASE") or Settings.from_environment().database
    with open_database(url) as database:
        while left := len(RunList(database).unfinished()):
            if somebody_leads(Leases(database), database.clock):
                led = time.monotonic()
            elif not read(layout.record).supervised or time.monotonic() - led > _LEADERLESS_S:
                output.note(f"Not waited for: {left} run{'s' * (left > 1)} that nobody works on")
                return
            if left != told:
                output.note(f"Waiting for {left} run{'s' * (left > 1)} to end; Ctrl-C leaves everything as it is")
                told = left
            time.sleep(1.0)


def _why_not(layout: Layout) -> RecoError:
    """Why a supervisor has ended that nobody asked to."""
    from jobs.errors import RecoError
    from service.stack.parts import last_words
    from service.stack.record import read

    record, log = read(layout.record), layout.log("supervisor")
    if record.problem:
        return RecoError(record.problem, hint=record.hint)
    if record.phase == "down":
        return RecoError("the service was stopped while it was being started.", hint="`reco up` starts it again.")
    return RecoError(
        f"the service's supervisor ended: {last_words(log)}",
        hint=f"Its whole log is {log}. Parts may still run: `reco up` takes them up, `reco down` ends them.",
    )


def _lost(record: StackRecord, name: str) -> RecoError:
    from jobs.errors import RecoError
    from service.cli.stack_shown import TITLES

    part = record.parts[name]
    return RecoError(
        f"{TITLES.get(name, name)} died {part.restarts + 1} times in a row: {part.words}",
        hint=f"Its log is {part.log}. `reco up` tries again; where a port is taken, `reco down` first.",
    )
