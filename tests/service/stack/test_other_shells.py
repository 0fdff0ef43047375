"""A stack that another shell ends or asks after: by what was kept when it was started, not by what is set there."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import RecoError, UserError
from service.cli import connect
from service.cli import stack as commands
from service.cli.connect import Keeper
from service.cli.stack_shown import is_well, tell
from service.control.control import Control
from service.runs.database import open_database
from service.stack import lifecycle
from service.stack.environment import Places
from service.stack.layout import Layout
from service.stack.lifecycle import BUSY, bring_down
from service.stack.processes import Process
from service.stack.record import Options, PartRecord, Recorder, StackRecord, read
from service.stack.tracking import LocalTracking, OthersTracking, tracking
from tests.service.stored import control as control
from tests.service.stored import reco, submitted


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.make(room=0)
    return layout


def left(layout: Layout, **more: object) -> None:
    """A stack whose supervisor is gone."""
    Recorder(layout.record, StackRecord()).set(
        phase="running", parts={"api": PartRecord(), "leader": PartRecord(), "mlflow": PartRecord()}, **more
    )


def test_a_port_that_is_taken_by_now_does_not_keep_a_stack_from_being_ended(layout: Layout) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        left(layout, options=Options(ray=False, port=port), ports={"api": port})
        assert bring_down(layout)
    assert read(layout.record).phase == "down"
    assert read(layout.record).ports == {"api": port}


def test_runs_are_saved_in_the_database_that_the_stack_had(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{layout.home}/kept.db"
    open_database(url).close()
    told = {"RECO_DATABASE": url, "RECO_STORAGE": str(layout.home / "kept")}
    left(layout, options=Options(ray=False), told=told)
    monkeypatch.setenv("RECO_DATABASE", "no-database")
    with caplog.at_level(logging.WARNING):
        assert bring_down(layout)
    assert caplog.text == ""


def test_places_are_meant_from_where_the_stack_is_started(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(lifecycle, "launch", lambda _command, _log, environment, **_: given.update(environment))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECO_DATABASE", "sqlite:///mine.db")
    monkeypatch.setenv("RECO_STORAGE", "mine")
    lifecycle.launch_supervisor(layout, Options())
    assert given["RECO_DATABASE"] == f"sqlite:///{tmp_path}/mine.db"
    assert given["RECO_STORAGE"] == f"{tmp_path}/mine"


def test_what_was_kept_holds_whatever_a_shell_says(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECO_DATABASE", "RECO_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "http://another")
    kept = {"RECO_DATABASE": "sqlite:////kept.db", "RECO_STORAGE": "/kept"}
    places = Places(layout, Options(ray=False), {}, told=kept)
    service = places.of_service()
    assert {name: service[name] for name in kept} == kept
    assert isinstance(tracking(places, lambda: None), LocalTracking), "it was the stack's own, so it ends with it"
    assert "MLFLOW_TRACKING_URI" not in places.of_service()
    others = Places(layout, Options(ray=False), {}, told=kept | {"MLFLOW_TRACKING_URI": "http://others"})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert isinstance(tracking(others, lambda: None), OthersTracking), "it was another's, so it does not"


def test_a_part_that_does_not_answer_any_more_is_not_well(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    me = Process.of(1)
    part = PartRecord(state="up", process=me, url="http://127.0.0.1:8000", log="api.log")
    record = StackRecord(phase="running", supervisor=me, parts={"api": part})
    assert is_well(record)
    part.words = "Connection refused"
    assert not is_well(record)
    tell(record, layout, as_json=False)
    assert capsys.readouterr().out.startswith("! API, pages   up, but Connection refused\n")


@pytest.mark.parametrize(("code", "kind", "words"), [(1, RecoError, "supervisor ended"), (BUSY, UserError, "already")])
def test_in_the_foreground_a_supervisor_that_crashed_is_an_error(
    layout: Layout, code: int, kind: type[RecoError], words: str
) -> None:
    left(layout)
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    with pytest.raises(kind, match=words):
        commands._stay(layout, process)


def test_down_does_not_wait_for_runs_that_nobody_works_on(control: Control) -> None:
    submitted(control, "new")
    assert "Not waited for: 1 run that nobody works on" in reco("down", "--wait").stderr


def test_whoever_watches_begins_nothing_after_the_service_was_taken_down(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[None] = []
    monkeypatch.setattr(connect, "work_on", lambda: begun.append(None))
    monkeypatch.setattr(connect, "_LOOK_EVERY_S", -1.0)
    keeper = Keeper()
    keeper.look()
    assert len(begun) == 1, "without a service the command has to see to it"
    recorder = Recorder(Layout(control.settings.home).record, StackRecord())
    recorder.set(phase="running", supervisor=Process.of(1))
    keeper.look()
    recorder.set(phase="down", supervisor=None)
    keeper.look()
    assert keeper.waits
    recorder.set(phase="running", supervisor=Process.of(1))
    keeper.look()
    assert not keeper.waits
    assert len(begun) == 1
