"""Fixtures for reads over servers in trouble."""

from __future__ import annotations

from collections.abc import Iterator

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
