"""A service over SQLite, with a clock that tests move, and pictures that specs can name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.shards.dataset import open_dataset
from service.contract.interface import Runs, Service
from service.contract.messages import Identity
from service.control.control import Control
from service.settings import Settings
from tests.pictures import write_shards
from tests.service.runs.conftest import Clock


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexed shards of 200 pictures."""
    folder = write_shards(tmp_path_factory.mktemp("control") / "shards", samples=200)
    open_dataset(str(folder))
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def control(tmp_path: Path, clock: Clock) -> Iterator[Control]:
    settings = Settings.from_environment({"RECO_HOME": str(tmp_path / "home")})
    with Control(settings, clock=clock) as control:
        yield control


def caller(owner: str = "ann", project: str | None = None) -> Identity:
    return Identity(owner=owner, role="admin", project=project, version="0")


@pytest.fixture
def service(control: Control) -> Service:
    return control.service(caller())


@pytest.fixture
def runs(service: Service) -> Runs:
    return service.runs
