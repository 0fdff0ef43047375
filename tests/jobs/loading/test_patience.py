"""A loader process, or a storage behind it, that says nothing: explained, ended or endured, and never without limit."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.loading import process
from jobs.loading.patience import Patience, StalledError
from jobs.loading.process import LoaderDiedError, LoaderProcess
from jobs.shards.dataset import open_dataset
from jobs.storage import open_storage
from tests.jobs.loading.faulty_proxy import FaultyProxy
from tests.jobs.shards.made import make_shards
from tests.s3 import S3Server


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server) -> str:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/set"
    make_shards(tmp_path / "set", [20] * 6)
    for path in (tmp_path / "set").glob("*.tar"):
        open_storage(url).upload(path.name, path)
    return url


def test_a_stall_names_shard_range_and_host(url: str, monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server) -> None:
    open_dataset(url)
    with _Gate(rclone_s3.endpoint) as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gate.endpoint)
        with LoaderProcess(patience=Patience(warn=0.3, fail=0.8)) as loader:
            opened = loader.open(url, labels=True)  # its index is read by now
            gate.closed.set()
            with pytest.raises(StalledError, match=rf"{url}/part-000000.tar bytes \d+\.\.\d+ from {gate.endpoint}"):
                next(iter(loader.read(opened, range(20), batch_size=10)))


def test_an_index_that_takes_longer_than_any_wait_is_built_as_long_as_bytes_come(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server
) -> None:
    def slow(number: int, start: int, stop: int) -> str:
        time.sleep(0.4 * (number + 1))  # they come at once: one is answered after the other
        return ""

    with FaultyProxy(rclone_s3.endpoint) as between:
        between.fault = slow
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        began = time.monotonic()
        with LoaderProcess(patience=Patience(warn=0.2, fail=1.2)) as loader:
            assert len(loader.open(url, index=str(tmp_path / "index"))) == 120
        assert time.monotonic() - began > 2.0


def test_a_data_set_whose_storage_does_not_answer_is_an_error(
    url: str, monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server
) -> None:
    with _Gate(rclone_s3.endpoint) as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gate.endpoint)
        gate.closed.set()
        with (
            LoaderProcess(patience=Patience(warn=0.3, fail=0.8)) as loader,
            pytest.raises(StalledError, match=r"No data set came for .* s; the loader waits for no read"),
        ):
            loader.open(url)


def test_a_loader_killed_while_it_opens_is_started_again(tmp_path: Path) -> None:
    make_shards(tmp_path, [5])
    with LoaderProcess() as loader:
        loader.open(str(tmp_path))
        assert loader.pid is not None
        os.kill(loader.pid, signal.SIGKILL)
        assert len(loader.open(str(tmp_path), labels=True)) == 5


def test_a_loader_that_cannot_start_is_an_error_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with LoaderProcess() as loader, pytest.raises(LoaderDiedError, match=r"ended 4 times.*exit code 1"):
        loader.open(str(tmp_path))


def test_a_loader_frozen_while_it_opens_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_ANSWER_S", 1.0)
    make_shards(tmp_path, [5])
    with LoaderProcess(patience=Patience(warn=0.3, fail=60.0)) as loader:
        loader._ensure()
        assert loader.pid is not None
        os.kill(loader.pid, signal.SIGSTOP)
        assert len(loader.open(str(tmp_path))) == 5
        assert loader.restarts == 1


def test_a_loader_that_never_answers_is_an_error_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_ANSWER_S", 0.1)
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 1000\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    patience = Patience(warn=0.1, fail=60.0)
    with LoaderProcess(patience=patience) as loader, pytest.raises(LoaderDiedError, match=r"ended 4 times.*signal 9"):
        loader.open(str(tmp_path))


class _Gate:
    """A way to a server that can be shut: connections stay open, and nothing passes any more."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self.closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> _Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            outside = socket.create_connection(self._target)
            for source, target in ((inside, outside), (outside, inside)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(1 << 16):
            if self.closed.is_set():
                threading.Event().wait()
            target.sendall(data)
        target.close()
