"""Fixtures for reads in trouble."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from jobs.storage import retry
from jobs.storage.retry import RetryBudget
from tests.jobs.storage.faulty import FaultyServer, serve
from tests.s3 import clear_aws


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of retries for this test alone that nothing here uses up."""
    monkeypatch.setattr(retry, "BUDGET", RetryBudget(rate=1e6, burst=1e6))


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, plenty: None) -> Iterator[FaultyServer]:
    """A server that breaks as it is told, and that this process's S3 clients talk to."""
    clear_aws(monkeypatch)
    with serve(FaultyServer()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield server


@pytest.fixture
def between_pieces(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Reads of files come in pieces of 100 kB; what is put into the list happens after the first of them."""
    real: Callable[..., int] = os.preadv
    events: list[Callable[[], object]] = []

    def in_pieces(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        got = real(descriptor, [buffers[0][:100_000]], offset)
        while events:
            events.pop()()
        return got

    monkeypatch.setattr(os, "preadv", in_pieces)
    return events
