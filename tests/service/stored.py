"""Runs in a real store that no leader works on, and `reco` over them: they stay as a test puts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli.main import app
from service.contract.messages import RunView, Submission
from service.control.control import Control, this_user
from service.runs.records import Ending
from service.runs.retry import Cause
from service.runs.states import Signal
from service.settings import Settings
from tests.pictures import tiny_spec

RECO = [sys.executable, "-m", "service.cli.main"]
PROGRESS = {
    "phase": "training",
    "step": 30,
    "total_steps": 120,
    "epoch": 1.0,
    "epochs": 4,
    "metrics": {"train/loss": 3.25, "valid/knn": 61.25},
    "pictures_per_s": 1234.5,
    "data_wait": 0.031,
    "memory_gb": 2.5,
    "eta_s": 4000.0,
    "health": "healthy",
}


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    """A service of this test's own, which the commands use, too; nobody leads, so that runs stay as they are put."""
    for name in ("RECO_API", "RECO_STORAGE", "RECO_DATABASE", "RECO_BACKEND", "RECO_RAY_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECO_USER", "ann")
    with Control(Settings.from_environment()) as control:
        yield control


@pytest.fixture
def environment(control: Control) -> dict[str, str]:
    """For commands at a terminal."""
    assert os.environ["RECO_HOME"] == str(control.settings.home)
    return dict(os.environ)


def reco(*words: str, code: int = 0) -> Result:
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == code, ran.output
    return ran


def submitted(control: Control, run_id: str, **changes: object) -> RunView:
    runs = control.service(this_user()).runs
    project = str(changes.pop("project", "default"))
    return runs.submit(Submission(spec=tiny_spec(Path("/nowhere"), **changes), run_id=run_id, project=project))


def moved(
    control: Control, run_id: str, *signals: Signal, cause: Cause | None = None, words: str = "So it is."
) -> None:
    """As if a leader had seen all this."""
    for signal in signals:
        control.store.move(
            control.store.get(run_id),
            signal,
            words=words,
            actor="test",
            backend="local",
            ending=Ending(cause, 1 if cause else 0, 16) if signal not in (Signal.BEGIN, Signal.RUNNING) else None,
        )


@pytest.fixture
def three(control: Control) -> None:
    """`old` has failed after two attempts, `now` trains, `new` of project birds waits for its turn."""
    submitted(control, "old")
    moved(control, "old", Signal.BEGIN, Signal.RUNNING, Signal.LOST, cause=Cause.NODE_LOST, words="A host was lost.")
    moved(control, "old", Signal.BEGIN, Signal.RUNNING, Signal.FAILED, cause=Cause.NAN, words="Training diverged.")
    submitted(control, "now")
    moved(control, "now", Signal.BEGIN, Signal.RUNNING)
    control.store.save_progress("now", PROGRESS)
    submitted(control, "new", name="sparrows", project="birds")
