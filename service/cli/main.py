"""The command `reco`: its nouns and verbs, and the one place where an exception becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import metadata
from typing import Annotated

import typer
from typer.core import TyperGroup

from jobs.errors import RecoError
from service.cli import output
from service.cli.data import app as data
from service.cli.doctor import doctor
from service.cli.embed import embed
from service.cli.evaluate import evaluate
from service.cli.models import app as models
from service.cli.pretrain import pretrain
from service.cli.runs import app as runs
from service.cli.search import search
from service.cli.serve import serve
from service.cli.spec import app as spec
from service.cli.stack import down, up
from service.cli.sweep import app as sweep
from service.cli.tokens import app as tokens
from service.cli.top import top
from service.cli.tracking import app as tracking

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


class Root(TyperGroup):
    """Explains what the commands raise.

    A `RecoError` gives its message, its hint and its exit code (2 where the user can mend it, else 1), Ctrl-C gives
    130, anything else is a mistake of ours: one line and 1. Tracebacks are shown with `--debug` only.
    """

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # the base names a private class
        """Run the command and end with the exit code that its outcome stands for."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise  # Typer's own: the end of a command, or a usage error, which it prints with a suggestion
        except KeyboardInterrupt:
            output.fail("stopped by Ctrl-C")
            raise typer.Exit(INTERRUPTED) from None
        except RecoError as error:
            _explain(ctx, error)
            output.fail(error.message, hint=error.hint)
            raise typer.Exit(error.exit_code) from error
        except Exception as error:  # the last stop before the user
            _explain(ctx, error)
            first = next(iter(str(error).splitlines()), "")
            output.fail(
                f"unexpected: {type(error).__name__}{': ' if first else ''}{first}",
                hint=None if ctx.params.get("debug") else "Run again with `reco --debug …` to see where.",
            )
            raise typer.Exit(1) from error


app = typer.Typer(
    name="reco",
    cls=Root,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        output.say(f"reco {metadata.version('reco-training')}")
        raise typer.Exit


@app.callback()
def reco(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Pretrain image encoders on pictures in S3 or a folder, know that they are good, and use them.

    Start with `reco doctor`, then `reco spec explain`, then `reco pretrain SPEC`.
    """


app.command()(pretrain)
app.command()(top)
app.command("eval")(evaluate)
app.command()(embed)
app.command()(search)
app.command()(serve)
app.add_typer(runs, name="runs")
app.add_typer(sweep, name="sweep")
app.add_typer(models, name="models")
app.add_typer(data, name="data")
app.add_typer(spec, name="spec")
app.add_typer(tracking, name="tracking")
app.add_typer(tokens, name="tokens")
app.command()(up)
app.command()(down)
app.command()(doctor)


def main() -> None:
    """Run `reco` with the arguments of the process; the entry point of the console script."""
    try:
        app(prog_name="reco")
    except KeyboardInterrupt:  # before or after the command itself
        output.fail("stopped by Ctrl-C")
        sys.exit(INTERRUPTED)
    finally:
        _flush()


def _explain(ctx: typer.Context, error: Exception) -> None:
    if ctx.params.get("debug"):
        output.note("".join(traceback.format_exception(error)).rstrip(), style="")


def _flush() -> None:
    """Write out what is buffered while a closed pipe (`reco … | head`) can still be passed over in silence."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
