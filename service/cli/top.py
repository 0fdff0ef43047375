"""`reco top`: every run that is under way, as a table that stays up to date."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from jobs.errors import RecoError, UserError
from service.cli import connect, output
from service.cli.live import clock, knn_of, progress_of, waiting
from service.cli.runs import STYLES, Mine, Project, how_far, pages
from service.runs.states import State

if TYPE_CHECKING:
    from rich.console import RenderableType

    from service.contract.interface import Service, Wanted
    from service.contract.messages import RunView


def top(
    project: Project = None,
    mine: Mine = False,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between looks.")] = 2.0,
) -> None:
    """Show every run that is under way, and keep it up to date until Ctrl-C; without a terminal, once.

    Examples:
    - `reco top --mine`
    """
    from service.contract.interface import Wanted

    with connect.service() as service:
        wanted = Wanted(
            states=[state for state in State if not state.is_final],
            project=project,
            owner=service.caller.owner if mine else None,
        )
        picture = picture_of(service, wanted)
        if not output.results().is_terminal:
            output.show(picture)
            return
        try:
            with Live(picture, console=output.results(), refresh_per_second=4, screen=True) as live:
                while True:
                    time.sleep(every)
                    try:
                        picture = picture_of(service, wanted)
                        live.update(picture)
                    except UserError:
                        raise
                    except RecoError as error:
                        note = f"! no answer, which says nothing of the runs: {error.message}"
                        live.update(Group(Text(note, style="yellow"), picture))
        except KeyboardInterrupt:
            return  # how one leaves it


def picture_of(service: Service, wanted: Wanted) -> RenderableType:
    """The runs that fit, as a table with a line about them all."""
    found = list(pages(service.runs, wanted, limit=None))
    states = [run.state for run in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in State if state in states)
    headline = Text(f"{counts or 'no run is under way'} · {service.where}", style="bold")
    return Group(headline, table_of(found)) if found else headline


def table_of(found: list[RunView]) -> RenderableType:
    """What each run does, how fast, how good, and until when."""
    table = output.table("Run", "State", "Phase", "Step", "Pictures/s", "Data wait", "k-NN", "Left", "Owner")
    for run in found:
        said = progress_of(run)
        if said is None:
            cells = [waiting(run), *[""] * 5]
        else:
            knn = knn_of(said)
            cells = [
                said["phase"],
                how_far(run),
                f"{said['pictures_per_s']:,.0f}" if said.get("pictures_per_s") else "",
                f"{said['data_wait']:.1%}" if "data_wait" in said else "",
                "" if knn is None else f"{knn:.1f} %",
                clock(said["eta_s"]) if "eta_s" in said and said["phase"] == "training" else "",
            ]
        state = Text(", ".join([run.state, *run.conditions]), style="yellow" if run.conditions else STYLES[run.state])
        table.add_row(Text(run.id), state, *map(Text, cells), Text(run.owner))
    return table
