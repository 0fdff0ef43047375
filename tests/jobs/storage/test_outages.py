"""Servers that go away and come back, and what a process with many threads does to them meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.storage import UnreachableError, open_storage, retry
from jobs.storage.retry import Patience, RetryBudget
from jobs.storage.s3 import S3Storage
from tests.jobs.storage.faulty import DATA, FaultyServer
from tests.s3 import free_port, serve_rclone

pytestmark = pytest.mark.timeout(120)


def use_rclone(monkeypatch: pytest.MonkeyPatch, folder: Path, port: int) -> None:
    """Make a bucket with one object, and look at it once."""
    with serve_rclone(folder, port=port) as server:
        server.use(monkeypatch)
        (folder / "bucket").mkdir()
        (folder / "bucket" / "x").write_bytes(DATA)


@pytest.mark.parametrize(
    "away_s", [4.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(240)])], ids=["seconds", "a minute"]
)
def test_a_server_that_was_away_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away_s: float) -> None:
    folder, port = tmp_path / "buckets", free_port()
    use_rclone(monkeypatch, folder, port)
    storage = open_storage("s3://bucket")
    (tmp_path / "file").write_bytes(b"uploaded")
    with serve_rclone(folder, port=port):
        assert storage.stat("x").size == len(DATA)
    with ThreadPoolExecutor(4) as pool:
        read = pool.submit(storage.read_range, "x", 5, 2_000_000)
        write = pool.submit(storage.write, "y", b"written")
        upload = pool.submit(storage.upload, "z", tmp_path / "file")
        found = pool.submit(storage.list)
        time.sleep(away_s)
        assert not any(future.done() for future in (read, write, upload, found))
        with serve_rclone(folder, port=port):
            assert read.result() == DATA[5:2_000_000]
            assert "x" in [item.key for item in found.result()]
            write.result()
            upload.result()
    assert (folder / "bucket" / "y").read_bytes() == b"written"
    assert (folder / "bucket" / "z").read_bytes() == b"uploaded"


def test_an_endpoint_that_never_answered_is_given_up_early(
    monkeypatch: pytest.MonkeyPatch, faulty: FaultyServer
) -> None:
    # Were the patience for known endpoints used, the time limit of these tests would end this one.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError):
        S3Storage("bucket", asking=Patience(1000.0)).stat("x")


def test_hundreds_of_threads_in_an_outage_do_not_multiply_requests(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BUDGET", RetryBudget(rate=20, burst=10))
    faulty.always = "503"
    threads, storage = 200, S3Storage("bucket", reading=Patience(3.0, base=0.001, cap=0.002))

    def fail(_: int) -> None:
        with pytest.raises(UnreachableError):
            storage.read_range("x", 0, 100)

    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fail, range(threads)))
    # Each thread's first request, its free retry and its last try; all others need a token.
    allowed = 3 * threads + 10 + 20 * (time.monotonic() - began)
    assert len(faulty.ranges) <= allowed


def test_a_stray_fault_needs_nothing_of_a_budget_that_is_used_up(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BUDGET", RetryBudget(rate=1e-9, burst=0))
    faulty.faults = ["truncated"]
    storage = S3Storage("bucket", reading=Patience(1000.0, base=0.001))
    assert storage.read_range("x", 0, 2_400_000) == DATA[:2_400_000]


def test_after_an_outage_one_success_lets_all_the_others_through(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = RetryBudget(rate=1e-9, burst=2)
    budget.take(0.0)
    budget.take(0.0)
    passed = []

    def retry_and_succeed(number: int) -> None:
        budget.take(1000.0)
        passed.append(number)
        budget.give_back()

    threads = [threading.Thread(target=retry_and_succeed, args=(number,), daemon=True) for number in range(50)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert passed == []
    budget.give_back()
    for thread in threads:
        thread.join(60)
    assert sorted(passed) == list(range(50))


def test_a_budget_never_refuses() -> None:
    budget = RetryBudget(rate=1e-9, burst=0)
    for _ in range(3):
        budget.take(0.01)


def test_reads_in_flight_are_capped(faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "in_flight", threading.BoundedSemaphore(4))
    storage = S3Storage("bucket", reading=Patience(60.0, base=0.001))
    faulty.faults, faulty.delay_s = ["503", "truncated"] * 10, 0.05
    with ThreadPoolExecutor(32) as pool:
        parts = list(pool.map(lambda n: storage.read_range("x", n * 50_000, (n + 1) * 50_000), range(48)))
    assert b"".join(parts) == DATA[: 48 * 50_000]
    assert faulty.most_at_once <= 8  # the server may count one as open when its last byte was read already
