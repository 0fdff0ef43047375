"""`reco models`: what encoders are registered, what one of them is, and which one is the champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import output
from service.cli.compare import compare_models
from service.cli.connect import service
from service.cli.export import export
from service.cli.options import AsJson
from service.cli.promotion import history, promote, rollback

if TYPE_CHECKING:
    from service.contract.messages import ModelView

app = typer.Typer(no_args_is_help=True, help="List registered encoders, compare, promote and export them.")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List every version of every registered encoder, newest first.

    Examples:
    - `reco models list`
    """
    with service() as reco:
        versions = reco.models.versions()
    if as_json:
        output.emit([_as_dict(each) for each in versions])
        return
    if not versions:
        output.say("No encoder is registered yet: `reco pretrain SPEC` registers one where its spec names a model.")
        return
    from rich.text import Text

    table = output.table("Model", "Version", "Aliases", "k-NN", "Created", "Run")
    for each in versions:
        cells = (each.name, str(each.version), ", ".join(each.aliases), _percent(each.knn), _local(each), each.run_id)
        table.add_row(*map(Text, cells))
    output.show(table)


@app.command()
def show(
    reference: Annotated[
        str, typer.Argument(metavar="MODEL", help="`name`, `name@alias` or `name/version`.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Show one encoder: results, origin, preprocessing, files and where to see it in MLflow.

    A name alone means its champion where there is one, else its newest version.

    Examples:
    - `reco models show digits-encoder`

    - `reco models show digits-encoder@candidate --json`
    """
    with service() as reco:
        version = reco.models.show(reference)
    if as_json:
        output.emit(_as_dict(version))
        return
    name = f"{version.name}/{version.version}"
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    output.say(f"{name}{aliases}", style="bold")
    origin = {
        "created": _local(version),
        "run": version.run_id,
        "data index": version.dataset_hash,
        "spec": version.spec_hash,
        "code": version.code,
        **version.lineage,
        "MLflow": version.url,
    }
    _section("Results", {name: f"{value:.4g}" for name, value in version.metrics.items()} or {"": "none"})
    for each in version.evaluations:
        figures = {name: f"{value:.4g}" for name, value in each.metrics.items()}
        _section(f"Probe {each.probe}: {each.data} ({each.when})", figures)
    _section("Encoder", version.encoder)
    _section("Preprocessing", version.preprocessing)
    _section("Origin", origin)
    _section("Files", {path: _size(size) for path, size in version.files.items()})
    output.say("")
    output.say(f"Next: reco embed {name} PICTURES -o embeddings.parquet")
    output.say(f'      reco models promote {name} --reason "…"')


app.command("compare")(compare_models)
app.command()(promote)
app.command()(rollback)
app.command()(history)
app.command()(export)


def _section(heading: str, rows: Mapping[str, object]) -> None:
    output.say("")
    output.say(heading, style="bold")
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        output.say(f"  {name:<{width}}  {text}")


def _as_dict(version: ModelView) -> dict[str, object]:
    return version.model_dump(mode="json") | {"created": version.created.isoformat()}


def _local(version: ModelView) -> str:
    return version.created.astimezone().strftime("%Y-%m-%d %H:%M")


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.1f} %"


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
