"""The API as a process of its own: it says where it listens, keeps secrets out of its log, and ends when told to."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.__main__ import SecretiveFormatter
from service.control.control import Control
from service.runs.records import NewRun
from service.settings import Settings


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RECO_", "MLFLOW_"))}
    return inherited | {"RECO_HOME": str(tmp_path / "home")}


@pytest.fixture
def process(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "service.api", "--port", "0"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_it_serves_until_sigterm_also_while_somebody_listens_to_events(
    environment: dict[str, str], process: subprocess.Popen[str]
) -> None:
    assert process.stderr is not None
    url = ""
    while not url:
        line = process.stderr.readline()
        assert line, "it ended"
        url = (re.findall(r"http://127\.0\.0\.1:\d+", line) or [""])[0]
    with Control(Settings.from_environment(environment)) as control:
        secret, _ = control.tokens_store.issue(name="n", owner="o", role="viewer")
        control.store.create(NewRun(id="one", name="n", spec="", spec_hash="0", owner="o"))
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
    with httpx.stream("GET", f"{url}/v1/runs/one/events", headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: event"
        process.send_signal(signal.SIGTERM)
        assert not [line for line in lines if line == "event: end"]
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert secret not in log


def test_a_port_that_is_taken_is_an_error_in_words(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "service.api", "--port", str(port)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: cannot listen at 127.0.0.1:{port}: ")


def test_the_log_hides_tokens_and_passwords() -> None:
    formatter = SecretiveFormatter("%(message)s")
    secret = "reco_0123456789abcdefABCDEF-_0123456789abcdefABC"
    try:
        raise ValueError(f"Authorization: Bearer {secret}, postgresql://user:word@host/name")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "cookie reco_token=%s", (secret,), sys.exc_info())
    told = formatter.format(record)
    assert secret not in told
    assert "word@" not in told
    assert "host/name" in told
