"""One real MLflow server for all tests of this folder; starting one takes seconds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.tracking.runs import TrackedRun, open_run
from jobs.tracking.server import stop_server

START = """
import sys
from pathlib import Path
from jobs.tracking.server import tracking_uri
print(tracking_uri(Path(sys.argv[1])))
"""


@pytest.fixture(scope="session", autouse=True)
def _no_named_server() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def tracking_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    stop_server(home)


@pytest.fixture(scope="session")
def addresses(tracking_home: Path) -> list[str]:
    """What two processes get that ask for the server of one folder at the same moment."""
    command = [sys.executable, "-c", START, str(tracking_home)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    return [process.communicate(timeout=200)[0].strip() for process in processes]


@pytest.fixture(scope="session")
def uri(addresses: list[str]) -> str:
    return addresses[0]


@pytest.fixture(scope="session")
def new_run(uri: str) -> Callable[[], TrackedRun]:
    """Opens a run with an id of its own."""
    numbers = itertools.count()

    def make() -> TrackedRun:
        return open_run(uri, experiment="tests", run_id=f"run-{next(numbers)}", name="test", params={}, tags={})

    return make
