"""`reco spec`: check a spec, explain its options, print its schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import output
from service.cli.explaining import explain_options
from service.cli.options import Overrides

if TYPE_CHECKING:
    from jobs.spec import RunSpec, SpecError

app = typer.Typer(no_args_is_help=True, help="Check a spec, or look up what it may hold.")


@app.command()
def validate(
    path: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML file.", show_default=False)],
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check a spec and print its hash and what it comes to; all mistakes are listed at once.

    Exit code 0 where it is valid, 2 where it is not.

    Examples:
    - `reco spec validate run.yaml`

    - `reco spec validate run.yaml --set train.epochs=100 --set register=null`
    """
    from jobs.spec import SpecError, load_spec

    try:
        spec = load_spec(path, overrides or ())
    except SpecError as error:
        if not as_json:
            raise
        output.emit(_invalid(error))
        raise typer.Exit(error.exit_code) from error
    if as_json:
        output.emit({"valid": True, "source": str(path), "hash": spec.hash, "spec": spec.model_dump(mode="json")})
        return
    output.say(f"✓ {path} is valid")
    for name, value in _essentials(spec):
        output.say(f"  {name:<11} {value}")


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="As everywhere; the schema is JSON either way.")] = False,
) -> None:
    """Print the JSON schema of a spec, for editors and other programs.

    It covers every option by itself; rules between options are checked by `reco spec validate`.

    Examples:
    - `reco spec schema > reco.schema.json`
    """
    from jobs.spec import RunSpec

    output.emit({"$schema": "https://json-schema.org/draft/2020-12/schema", **RunSpec.model_json_schema()})


@app.command()
def explain(
    path: Annotated[
        str | None, typer.Argument(metavar="[PATH]", help="A section or an option, such as `method.groups`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the options as JSON.")] = False,
) -> None:
    """Explain every option of a spec, or those below PATH: type, default, allowed values and purpose.

    Examples:
    - `reco spec explain`

    - `reco spec explain method.global_relation`
    """
    from jobs.spec import RunSpec

    explain_options(RunSpec, path, command="reco spec explain", as_json=as_json)


def _invalid(error: SpecError) -> dict[str, object]:
    mistakes = [
        {"path": each.path, "line": each.line, "override": each.override, "message": each.message}
        for each in error.mistakes
    ]
    return {"valid": False, "source": error.source, "mistakes": mistakes}


def _essentials(spec: RunSpec) -> list[tuple[str, str]]:
    """What a person checks before spending hours on a spec, with everything resolved."""
    batch, groups, workers = spec.train.global_batch_size, spec.method.groups, spec.scale.workers
    weights = (spec.method.global_relation.weight, spec.method.local_relation.weight)
    device = f"{spec.scale.gpus_per_worker} GPU" if spec.scale.gpus_per_worker else "no GPU"
    relations = (
        f"ReCo: global relation {weights[0]:g}, local relation {weights[1]:g} ({spec.method.local_relation.mix})"
    )
    train = spec.data.train if isinstance(spec.data.train, str) else f"{len(spec.data.train)} sources"
    return [
        ("name", spec.name),
        ("hash", spec.hash),
        ("pictures", f"{train}, views of {spec.data.image_size} × {spec.data.image_size}"),
        ("encoder", f"{spec.encoder.name}, {spec.encoder.stem} stem, width {spec.encoder.width}"),
        ("method", relations if any(weights) else "MoCo v2: both relations are switched off"),
        ("negatives", f"{spec.method.queue_size} past keys"),
        ("batch", f"{batch} pictures per step = {groups} groups of {batch // groups}"),
        ("length", f"{spec.train.epochs} epochs, {spec.train.warmup_epochs} of them warm-up, lr {spec.optimizer.lr:g}"),
        (
            "workers",
            f"{workers}, each with {device}, {spec.scale.cpus_per_worker} CPU cores, {groups // workers} of the groups",
        ),
        ("probes", f"every {spec.train.probe_every} epochs" if spec.data.probe else "none"),
        ("checkpoint", f"every {spec.checkpoint.every}, {spec.checkpoint.keep} kept"),
        ("registers", spec.register.model if spec.register else "nothing"),
    ]
