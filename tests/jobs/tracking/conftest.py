"""What tests of tracking share besides the one MLflow server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from jobs.tracking.runs import TrackedRun, open_run


@pytest.fixture(scope="session", autouse=True)
def _no_named_server() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def new_run(uri: str) -> Callable[[], TrackedRun]:
    """Opens a run with an id of its own."""
    numbers = itertools.count()

    def make() -> TrackedRun:
        return open_run(uri, experiment="tests", run_id=f"run-{next(numbers)}", name="test", params={}, tags={})

    return make
