"""A service over SQLite and its API; each test has runs of its own, most share the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.shards.dataset import open_dataset
from service.client import HttpService, connect
from service.contract.interface import Service
from service.contract.messages import Identity
from service.control.control import Control
from service.settings import Settings
from tests.pictures import tiny_spec, write_shards
from tests.service.client.live import Api, serving


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A spec over indexed shards."""
    shards = write_shards(tmp_path_factory.mktemp("client") / "shards", samples=200)
    open_dataset(str(shards))
    return tiny_spec(shards, probe=shards)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    home = tmp_path_factory.mktemp("home")
    with Control(Settings.from_environment({"RECO_HOME": str(home)})) as control:
        yield control


@pytest.fixture(scope="module")
def api(control: Control) -> Iterator[Api]:
    with serving(control) as api:
        yield api


@pytest.fixture
def local(control: Control) -> Service:
    """The service without HTTP."""
    return control.service(Identity(owner="ann", role="admin", version="0"))


@pytest.fixture
def remote(api: Api) -> Iterator[HttpService]:
    """The same over HTTP."""
    with connect(api.url, api.token()) as service:
        yield service


@pytest.fixture
def folder(control: Control) -> Path:
    """Where runs keep their folders."""
    return Path(control.settings.storage)
