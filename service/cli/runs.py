"""`reco runs`: what runs there are, one of them whole, and its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from jobs.errors import UserError
from service.cli import connect, output
from service.cli.acting import delete, fork, resume, stop
from service.cli.compare import compare_runs
from service.cli.live import clock, conditions_of, knn_of, line_of, progress_of, terms_of
from service.cli.logs import events, logs
from service.cli.options import AsJson, MaybeRun, RunId, StorageOption
from service.runs.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from jobs.job_folder import Outcome
    from jobs.run_folder import Progress, RunFolder
    from service.contract.interface import Runs, Wanted
    from service.contract.messages import CheckpointView, RunDetails, RunView

app = typer.Typer(no_args_is_help=True, help="List runs, watch, stop, resume, fork, delete and compare them.")

STYLES = {
    **dict.fromkeys(State, ""),
    State.RUNNING: "green",
    State.RECOVERING: "yellow",
    State.FAILED: "red",
    State.CANCELLED: "dim",
}
Project = Annotated[str | None, typer.Option("--project", help="Of this project.")]
Mine = Annotated[bool, typer.Option("--mine", help="Only yours.")]


@app.command("list")
def list_(
    states: Annotated[list[State] | None, typer.Option("--state", help="In this state; may be repeated.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="PATTERN", help="Whose name fits, with * and ?, such as `photos*`.")
    ] = None,
    mine: Mine = False,
    kind: Annotated[Literal["run", "sweep"] | None, typer.Option("--kind", help="Runs or sweeps.")] = None,
    project: Project = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="At most so many.")] = 30,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
) -> None:
    """List runs, the newest first.

    Examples:
    - `reco runs list --mine --state running --state recovering`

    - `reco runs list --name 'photos*' --all -q`
    """
    from service.contract.interface import Wanted

    with connect.service() as service:
        owner = service.caller.owner if mine else None
        wanted = Wanted(states=states or (), kind=kind, name=name, project=project, owner=owner)
        found = list(pages(service.runs, wanted, limit=None if everything else limit))
        cut = len(found) == limit and not everything
        total = sum((service.runs.page(wanted, limit=1).counts or {}).values()) if cut else len(found)
    if as_json:
        output.emit([run.model_dump(mode="json") for run in found])
    elif quiet:
        for run in found:
            output.say(run.id)
    elif not found:
        output.say(
            "There is no such run." if wanted != Wanted() else "There is no run: `reco pretrain SPEC` starts one."
        )
    else:
        output.show(_table(found))
        if total > len(found):
            output.note(f"the newest {len(found)} of {total}; `--all` shows every one")


@app.command()
def show(run: MaybeRun = None, as_json: AsJson = False) -> None:
    """Show one run: its state and why, progress, attempts and what ended them, results, and what to do next.

    Examples:
    - `reco runs show photos-20261123-2210`

    - `reco runs show --json`
    """
    from rich.text import Text

    with connect.service() as service:
        found = service.runs.show(connect.run_or_latest(service.runs, run))
    if as_json:
        output.emit(found.model_dump(mode="json"))
        return
    output.say(f"{found.id}  {found.state}", style=STYLES[found.state] or "bold")
    output.say(f"  {found.reason}")
    for words in conditions_of(found):
        output.say(f"  {words}", style="yellow")
    facts = _facts(found)
    width = max(map(len, facts))
    for name, words in facts.items():
        output.say(f"  {name:<{width}}  {words}")
    if found.history:
        table = output.table("Attempt", "State", "Cause", "Began", "Ended", "Step", "Job")
        for each in found.history:
            ended = "" if each.ended is None else f"{each.ended.astimezone():%Y-%m-%d %H:%M}"
            step = "" if each.step is None else f"{each.step:,}"
            began = f"{each.started.astimezone():%Y-%m-%d %H:%M}"
            cells = (str(each.number), each.state.value, each.cause or "", began, ended, step, each.submission_id)
            table.add_row(*map(Text, cells))
        output.show(table)
    if found.state is State.SUCCEEDED:
        from service.cli.results import show_results

        show_results(cast("Outcome | None", found.outcome))
    output.say("Next: " + "\n      ".join(_next(found)))


@app.command()
def checkpoints(
    run: RunId,
    storage: StorageOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read each one whole and compare its SHA-256.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a run, newest first, with step, size and state.

    A `whole` one can be continued from; a `damaged` one is passed over; an `unfinished` one was cut off while it was
    written, and does not count. With `--storage` the run's folder there is looked into, whether or not the service
    knows the run.

    Examples:
    - `reco runs checkpoints cifar10-20261123-2210`

    - `reco runs checkpoints cifar10-20261123-2210 --verify --json`
    """
    found = _checkpoints(run, storage, verify=verify)
    if as_json:
        output.emit([each.model_dump() for each in found])
        return
    if not found:
        output.say(f"Run {run} has no checkpoint yet.")
        return
    table = output.table("Step", "Size", "State")
    for each in found:
        style = None if each.state == "whole" else "yellow"
        table.add_row(f"{each.step:,}", f"{each.size / 1e6:.1f} MB", each.state, style=style)
    output.show(table)


app.command()(logs)
app.command()(events)
app.command()(stop)
app.command()(resume)
app.command()(fork)
app.command()(delete)
app.command("compare")(compare_runs)


def pages(runs: Runs, wanted: Wanted, *, limit: int | None) -> Iterator[RunView]:
    """Runs that fit, from the newest to the oldest, whatever a page holds.

    Args:
        runs: Where they are asked for.
        wanted: Which.
        limit: At most so many; None for all.
    """
    after, left = None, limit
    while left is None or left > 0:
        page = runs.page(wanted, after=after, limit=min(left or 200, 200))
        yield from page.runs
        left = None if left is None else left - len(page.runs)
        after = page.next
        if after is None:
            return


def how_far(run: RunView) -> str:
    """Progress of a run in a few words; empty where it has said nothing."""
    progress = run.progress or {}
    step, total = progress.get("step"), progress.get("total_steps")
    if not isinstance(step, int | float) or not isinstance(total, int | float) or not total:
        return ""
    return f"{step:,}/{total:,} ({step / total:.0%})"


def _table(found: list[RunView]) -> Table:
    from rich.text import Text

    table = output.table("Run", "State", "Step", "Left", "k-NN", "Owner", "Project", "Created")
    for run in found:
        said = progress_of(run) or {}
        knn = knn_of(cast("Progress", run.progress or {}))
        table.add_row(
            Text(run.id),
            Text(", ".join([run.state, *run.conditions]), style=STYLES[run.state]),
            how_far(run),
            clock(said["eta_s"]) if "eta_s" in said else "",
            "" if knn is None else f"{knn:.1f} %",
            Text(run.owner),
            Text(run.project),
            f"{run.created.astimezone():%Y-%m-%d %H:%M}",
        )
    return table


def _facts(run: RunDetails) -> dict[str, str]:
    facts = {
        "kind": f"{run.kind} of {run.name}, project {run.project}, {run.owner}",
        "created": f"{run.created.astimezone():%Y-%m-%d %H:%M}",
        "folder": f"{run.storage.rstrip('/')}/{run.id}",
        "spec": run.spec_hash,
    }
    facts |= {name.replace("_", " "): str(value) for name, value in run.lineage.items()}
    if run.due is not None and run.state is State.RECOVERING:
        facts["next try"] = f"{run.due.astimezone():%H:%M:%S}"
    if (progress := progress_of(run)) is not None:
        facts["progress"] = line_of(progress)
        facts["measured"] = terms_of(progress)
        facts["health"] = progress.get("health", "")
    if (url := (run.outcome or {}).get("tracking_url")) is not None and run.state is not State.SUCCEEDED:
        facts["MLflow"] = str(url)
    return {name: words for name, words in facts.items() if words}


def _next(run: RunDetails) -> list[str]:
    if run.kind == "sweep":
        return [f"reco sweep show {run.id}", *([] if run.state.is_final else [f"reco runs stop {run.id}"])]
    if not run.state.is_final:
        return [f"reco runs logs {run.id} -f", f"reco runs stop {run.id}"]
    if run.state is State.SUCCEEDED:
        return [f"reco runs checkpoints {run.id}", f"reco runs fork {run.id} --set …"]
    return [f"reco runs logs {run.id}", f"reco runs events {run.id}", f"reco runs resume {run.id}"]


def _checkpoints(run: str, storage: str | None, *, verify: bool) -> list[CheckpointView]:
    from jobs.checkpoints.manifest import survey
    from service.contract.messages import CheckpointView

    if storage is not None:
        folder = _folder(run, storage)
    else:
        with connect.service() as service:
            if not verify:
                return service.runs.checkpoints(run)
            folder = _folder(run, service.runs.show(run).storage)
    found = survey(folder.storage, verify=verify)
    return [CheckpointView(step=each.step, size=each.size, state=each.state) for each in found]


def _folder(run: str, storage: str) -> RunFolder:
    from jobs.run_folder import RunFolder

    folder = RunFolder(storage, run)
    if not folder.storage.exists("spec.yaml"):
        raise UserError(
            f"there is no run {run} in {folder.parent}.",
            hint="Name the folder or S3 prefix it was started with by --storage, or set RECO_STORAGE.",
        )
    return folder
