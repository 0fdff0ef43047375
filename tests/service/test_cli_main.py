"""The command as a whole: light to start, one line for an error, stable exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs.errors import RecoError, UserError
from service.cli import output
from service.cli.home import home
from service.cli.main import Root, app

HEAVY = ("torch", "ray", "mlflow", "boto3", "matplotlib", "pyarrow", "PIL", "sqlalchemy", "fastapi", "httpx")


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "service.cli.main"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    code = (
        "import sys\nfrom service.cli.main import main\nsys.argv = ['reco', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print('HEAVY', sorted({{*{HEAVY!r}, 'pydantic'}} & sys.modules.keys()))"
    )
    ended = run(code=code)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "HEAVY []"
    for name in (
        "pretrain",
        "runs",
        "top",
        "sweep",
        "embed",
        "doctor",
        "models",
        "data",
        "spec",
        "tokens",
        "up",
        "down",
    ):
        assert f"│ {name} " in ended.stdout


@pytest.mark.parametrize("command", ["validate", "schema", "explain"])
def test_commands_on_a_spec_import_nothing_heavy(command: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: tiny\ndata: {train: shards, image_size: 32}\nencoder: {name: resnet18}\n")
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom service.cli.main import app\n"
        "ended = CliRunner().invoke(app, ['spec', *sys.argv[1:]])\nassert ended.exit_code == 0, ended.output\n"
        f"print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    ended = run(command, *([str(path)] if command == "validate" else []), code=code)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    ended = run("pretrian")
    assert ended.returncode == 2
    assert "Did you mean 'pretrain'?" in ended.stderr


def test_version_is_the_packages() -> None:
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, "reco 0.1.0\n")


def test_a_users_mistake_is_one_line_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    ended = run("spec", "validate", str(tmp_path / "none.yaml"))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == f"error: {tmp_path / 'none.yaml'} has 1 mistake:\n  no such file\n"


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    ended = run("--debug", "spec", "validate", str(tmp_path / "none.yaml"))
    assert ended.returncode == 2
    assert "Traceback (most recent call last)" in ended.stderr
    assert "FileNotFoundError" in ended.stderr
    assert ended.stderr.endswith("no such file\n")


# The second is small enough to stay in the buffer until the process ends.
@pytest.mark.parametrize("command", [["spec", "schema"], ["spec", "explain", "name", "--json"], ["--version"]])
def test_a_closed_pipe_is_passed_over_in_silence(command: list[str]) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "service.cli.main", *command],
            stdout=writer, stderr=subprocess.PIPE, env=buffered, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert ended.stderr == ""


def failing(error: BaseException) -> typer.Typer:
    """An app of the same root whose one command raises `error`."""
    made = typer.Typer(cls=Root)

    @made.callback()
    def root(debug: bool = False) -> None: ...

    @made.command()
    def fail() -> None:
        raise error

    return made


AGAIN = "\n  → Run again with `reco --debug …` to see where.\n"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RecoError("the server is gone.", hint="Start it."), 1, "error: the server is gone.\n  → Start it.\n"),
        (UserError("no such bucket [b]."), 2, "error: no such bucket [b].\n"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C\n"),
        (
            ZeroDivisionError("division by zero\nmore"),
            1,
            f"error: unexpected: ZeroDivisionError: division by zero{AGAIN}",
        ),
        (AssertionError(), 1, f"error: unexpected: AssertionError{AGAIN}"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_what_a_command_raises_becomes_a_line_and_an_exit_code(error: BaseException, code: int, told: str) -> None:
    ended = CliRunner().invoke(failing(error), ["fail"])
    assert (ended.exit_code, ended.stdout, ended.stderr) == (code, "", told)


def test_the_cause_of_an_error_is_kept_for_debugging() -> None:
    error = RecoError("could not read.")
    error.__cause__ = OSError("disk on fire")
    ended = CliRunner().invoke(failing(error), ["--debug", "fail"])
    assert "OSError: disk on fire" in ended.stderr
    assert ended.exit_code == 1


def test_output_to_a_pipe_has_no_colours_and_does_not_read_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("✓ [bold]s3://b/[x][/bold] " + "a" * 300)
    output.note("! look")
    assert capsys.readouterr() == ("✓ [bold]s3://b/[x][/bold] " + "a" * 300 + "\n", "! look\n")


def test_home_is_where_reco_home_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "x"))
    assert home() == tmp_path / "x"
    monkeypatch.setenv("RECO_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".reco"


def test_every_command_has_help_with_an_example() -> None:
    from typer.main import get_command

    def walk(command: object, name: str) -> list[str]:
        below = getattr(command, "commands", None)
        if below is None:
            return [] if "reco " in (getattr(command, "help", "") or "") else [name]
        return [each for key, value in below.items() for each in walk(value, f"{name} {key}")]

    assert walk(get_command(app), "reco") == []
