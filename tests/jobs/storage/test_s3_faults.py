"""Ranged reads over a server that breaks on purpose: the exact bytes, or a typed error."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from jobs.storage import ObjectChangedError, StorageError, UnreachableError
from jobs.storage.retry import Backoff
from jobs.storage.s3 import S3Storage
from tests.s3 import clear_aws

DATA = os.urandom(2_500_000)
FAST = Backoff(attempts=5, base=0.001, cap=0.002)


class FaultyServer(ThreadingHTTPServer):
    """Answers GETs with `DATA`; `faults[n]` says how request n breaks, `always` how every later one does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.always = "fine"
        self.ranges: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def next_fault(self, asked: tuple[int, int]) -> str:
        with self.lock:
            self.ranges.append(asked)
            return self.faults.pop(0) if self.faults else self.always

    def handle_error(self, *_: object) -> None:
        """Broken pipes are what this server is for."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""

    def do_GET(self) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1
        fault = self.server.next_fault((start, stop))
        if fault in ("503", "500"):
            body = b"<Error><Code>SlowDown</Code><Message>busy</Message></Error>"
            self.send_response(int(fault))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if fault == "hang up":
            self.close_connection = True
            return
        shift = 1 if fault == "wrong range" else 0
        body = DATA[start + shift : stop + shift]
        if fault == "ignores range":
            body = DATA
            self.send_response(200)
        else:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + shift}-{stop + shift - 1}/{len(DATA)}")
        self.send_header("ETag", '"two"' if fault == "other version" else '"one"')
        if fault == "no length":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "fine" or fault in ("wrong range", "ignores range", "other version"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if fault == "reset":
            # A linger of zero seconds makes the close a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    server = FaultyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    clear_aws(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def storage(server: FaultyServer) -> S3Storage:
    return S3Storage("bucket", "prefix", reading=FAST)


@pytest.mark.parametrize("fault", ["truncated", "reset", "no length", "hang up", "503", "500"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_passing_fault_leaves_the_bytes_exact(
    server: FaultyServer, storage: S3Storage, fault: str, times: int
) -> None:
    server.faults = [fault] * times
    assert storage.read_range("x", 1000, 2_400_000, etag="one") == DATA[1000:2_400_000]
    assert server.faults == []


def test_the_read_goes_on_at_the_first_missing_byte(server: FaultyServer, storage: S3Storage) -> None:
    server.faults = ["truncated"]
    storage.read_range("x", 0, 2_400_000)
    (first, second) = server.ranges
    assert first == (0, 2_400_000)
    assert second == (1_200_000, 2_400_000)  # half had come


def test_progress_starts_the_count_of_failures_anew(server: FaultyServer, storage: S3Storage) -> None:
    server.faults = ["truncated"] * 12  # more than the patience of 5, but each brings half of the rest
    assert storage.read_range("x", 0, 2_400_000) == DATA[:2_400_000]


@pytest.mark.parametrize("fault", ["hang up", "503", "reset"])
def test_a_lasting_fault_is_a_typed_error_after_the_budget(
    server: FaultyServer, storage: S3Storage, fault: str
) -> None:
    server.always = fault
    with pytest.raises(UnreachableError, match="prefix/x"):
        storage.read_range("x", 0, 100_000)
    assert len(server.ranges) >= FAST.attempts
    if fault != "reset":
        assert len(server.ranges) == FAST.attempts


def test_another_version_is_refused_even_where_the_server_ignores_if_match(
    server: FaultyServer, storage: S3Storage
) -> None:
    server.always = "other version"
    with pytest.raises(ObjectChangedError):
        storage.read_range("x", 0, 100, etag="one")
    assert len(server.ranges) == 1


def test_two_versions_are_never_mixed_in_one_read(server: FaultyServer, storage: S3Storage) -> None:
    server.faults = ["truncated", "other version"]
    with pytest.raises(ObjectChangedError):
        storage.read_range("x", 0, 2_400_000)


@pytest.mark.parametrize("fault", ["wrong range", "ignores range"])
def test_a_wrong_range_is_an_error_at_once(server: FaultyServer, storage: S3Storage, fault: str) -> None:
    server.always = fault
    with pytest.raises(StorageError, match=r"Bytes 100\.\.200"):
        storage.read_range("x", 100, 200)
    assert len(server.ranges) == 1
