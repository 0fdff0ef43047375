"""An API for each test, over SQLite; some ask for one over both databases."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.api.serving import Api, open_api
from tests.service.runs.conftest import postgres as postgres
from tests.service.runs.postgres import new_database

_numbers = itertools.count()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with open_api(tmp_path / "home") as api:
        yield api


@pytest.fixture(params=["sqlite", "postgresql"])
def api_on_each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    url = None
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgres"), f"api_{next(_numbers)}")
    with open_api(tmp_path / "home", database=url) as api:
        yield api


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """For tests that leave nothing behind, and do not mind what others leave."""
    with open_api(tmp_path_factory.mktemp("shared") / "home") as api:
        yield api


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with api.client("admin") as client:
        yield client
