"""The local server: started once, reused, found again after a crash; a named one that is not there is said at once."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.errors import UserError
from jobs.tracking import server
from jobs.tracking.errors import TrackingError, TrackingUnreachableError
from jobs.tracking.health import trouble
from jobs.tracking.server import MARK, server_status, stop_server, tracking_uri


def processes_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home.resolve() / "mlflow"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_two_processes_that_start_at_once_share_one_server(addresses: list[str], tracking_home: Path) -> None:
    assert addresses[0] == addresses[1]
    assert trouble(addresses[0], timeout=10) is None
    # `mlflow server` and its one worker; its job runners are switched off.
    assert len(processes_of(tracking_home)) == 2


def test_a_running_server_is_reused_and_reported(uri: str, tracking_home: Path) -> None:
    said: list[str] = []
    before = {process.pid for process in processes_of(tracking_home)}
    assert tracking_uri(tracking_home, progress=said.append) == uri
    assert {process.pid for process in processes_of(tracking_home)} == before
    assert said == []
    status = server_status(tracking_home)
    assert status.running
    assert status.uri == uri
    assert status.pid in before
    assert status.memory_bytes > 2**27


def test_a_server_whose_leader_was_killed_is_replaced_at_the_same_address(uri: str, tracking_home: Path) -> None:
    status = server_status(tracking_home)
    assert status.pid is not None
    leader = psutil.Process(status.pid)
    leader.kill()  # its worker goes on, holding port and database
    while leader.is_running() and leader.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert trouble(uri, timeout=10) is None
    said: list[str] = []
    assert tracking_uri(tracking_home, progress=said.append) == uri
    assert len(said) == 1
    assert server_status(tracking_home).pid != status.pid
    assert len([each for each in processes_of(tracking_home) if each.status() != psutil.STATUS_ZOMBIE]) == 2


def test_stop_ends_every_process_of_its_own_server_and_no_other(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    own = [
        subprocess.Popen(sleep, env={**os.environ, MARK: str(tmp_path.resolve() / "mlflow")}, start_new_session=True)
        for _ in range(2)
    ]
    other = subprocess.Popen(sleep, env={**os.environ, MARK: str(tmp_path.resolve() / "other")})
    try:
        (tmp_path / "mlflow").mkdir()
        assert stop_server(tmp_path)
        assert all(process.poll() is not None for process in own)
        assert other.poll() is None
        assert not stop_server(tmp_path)
    finally:
        for process in [*own, other]:
            process.kill()
            process.wait()


def test_a_state_file_that_names_a_stranger_is_stale(tmp_path: Path) -> None:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    state = {"pid": os.getpid(), "port": 1, "started": 0}
    (folder / "server.json").write_text(json.dumps(state))
    assert not server_status(tmp_path).running
    assert not stop_server(tmp_path)  # this test's own process goes on


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackingError, match="file is not a database") as caught:
        tracking_uri(tmp_path)
    assert str(folder / "server.log") in str(caught.value.hint)
    assert processes_of(tmp_path) == []
    assert not (folder / "server.json").exists()


def test_a_named_server_that_is_not_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(TrackingUnreachableError, match="Connection refused") as caught:
        tracking_uri(tmp_path)
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_code == 2
    assert address.split("@")[1] in caught.value.message
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_named_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REACH_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TrackingUnreachableError, match=r"no answer within 0\.3 s"):
            tracking_uri(tmp_path)


@pytest.fixture
def plain_web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()


def test_a_named_server_that_is_something_else_is_refused(
    plain_web_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", plain_web_server)
    with pytest.raises(TrackingUnreachableError, match="HTTP 501"):
        tracking_uri(tmp_path)


def test_a_named_server_wins_over_the_local_one(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri(tmp_path) == uri
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_not_http_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////somewhere/mlflow.db")
    assert tracking_uri(tmp_path) == "sqlite:////somewhere/mlflow.db"
