"""From a spec's file to a submission, and the plan of one as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from service.cli import asking, output
from service.cli.promotion import message

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs.spec import DataSpec, RunSpec
    from service.contract.messages import Plan, Submission

MOST_CHANGES = 12
"""Most differences to the last run that are listed: beyond them it is another run altogether."""


def run_of(path: Path, overrides: list[str], *, run_id: str | None, project: str) -> tuple[Submission, RunSpec]:
    """The submission of a run's spec file, and the spec.

    It is read here, so that mistakes are told with the lines of the file.

    Args:
        path: The file.
        overrides: `path=value`, as `--set` has them.
        run_id: Id of the run; None lets the service make one.
        project: Whose it is.

    Raises:
        SpecError: The spec has mistakes.
        UserError: The id or the project cannot be.
    """
    from jobs.spec import load_spec, to_yaml
    from service.contract.messages import Submission

    spec = from_here(load_spec(path, overrides))
    return message(Submission, spec=to_yaml(spec), run_id=run_id, project=project), spec


def sweep_of(path: Path, overrides: list[str], *, run_id: str | None, project: str, then_full: bool) -> Submission:
    """The submission of a sweep's spec file and its base; as `run_of`."""
    from jobs.spec import load_sweep, to_yaml
    from service.contract.messages import Submission

    sweep = load_sweep(path, overrides)
    return message(
        Submission,
        kind="sweep",
        spec=to_yaml(sweep.spec),
        base=to_yaml(from_here(sweep.base)),
        run_id=run_id,
        project=project,
        then_full=then_full,
    )


def from_here(spec: RunSpec) -> RunSpec:
    """The spec with paths that mean the same in the folder its job runs in as in this one."""

    def absolute(data: DataSpec) -> DataSpec:
        probe = data.probe
        if probe is not None:
            test = None if probe.test is None else _absolute(probe.test)
            probe = probe.model_copy(
                update={"train": _absolute(probe.train), "valid": _absolute(probe.valid), "test": test}
            )
        index = None if data.index is None else _absolute(data.index)
        return data.model_copy(update={"train": _absolute(data.train), "probe": probe, "index": index})

    return spec.model_copy(update={"data": absolute(spec.data)})


def picture_of(plan: Plan) -> RenderableType:
    """The plan as a table, what differs from the last run, and warnings."""
    table = output.table("", "", title=f"{plan.kind.capitalize()} {plan.run_id}")
    table.show_header = False
    for line in plan.lines:
        table.add_row(Text(line.name, style="bold"), Text(line.words))
    parts: list[RenderableType] = [table]
    if plan.against is not None:
        changes = plan.changes or []
        parts.append(Text(f"Against {plan.against}: " + ("" if changes else "the same"), style="bold"))
        parts += [Text(f"  {change}") for change in changes[:MOST_CHANGES]]
        if len(changes) > MOST_CHANGES:
            parts.append(Text(f"  and {len(changes) - MOST_CHANGES} more"))
    parts += [Text(f"! {warning}", style="yellow") for warning in plan.warnings]
    return Group(*parts)


def confirmed(plan: Plan, *, yes: bool) -> bool:
    """Show the plan, and ask whether it is to be; without a terminal, or told `yes`, nobody is asked.

    Returns:
        Whether to go on.
    """
    output.progress().print(picture_of(plan))
    return yes or not asking.at_terminal() or asking.agreed("Start it", otherwise=True)


def _absolute(shards: str | list[str]) -> str | list[str]:
    if isinstance(shards, list):
        return [_one(each) for each in shards]
    return _one(shards)


def _one(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())
