"""The MLflow client this project uses: cached by address, quick to give up, its errors in our words."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from jobs.tracking.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

# MLflow's own defaults (7 retries, doubling, 120 s each) hold a caller for minutes when the server is gone.
# What the user has set wins.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@lru_cache(maxsize=8)
def client(uri: str) -> MlflowClient:
    """Return the client for the server at `uri`; MLflow's process-wide tracking URI is neither read nor set."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # More than a second, which a command that never talks to MLflow must not pay.

    # urllib3 warns of each attempt that fails; an outage is said once, by those who know what it means.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # "Waiting up to 300 seconds for model version …" is said of every registration, and none waits.
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


@contextmanager
def explained(action: str, uri: str) -> Iterator[None]:
    """Turn what MLflow raises inside into one `TrackingError` that names the action and the server."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as cause:
        raise TrackingError(
            f"could not {action}: MLflow at {shown(uri)} says: {reason(cause)}.",
            hint="See whether the server is up with `reco tracking status`, or look into its log.",
        ) from cause


def persistently(action: str, uri: str, call: Callable[[], T]) -> T:
    """Make a call that is safe to repeat, up to four times within about half a minute; see `explained`."""
    for wait in (1.0, 4.0, 10.0):
        try:
            with explained(action, uri):
                return call()
        except TrackingError:
            time.sleep(wait)
    with explained(action, uri):
        return call()


def shown(uri: str) -> str:
    """Return `uri` without the user name and password it may carry, fit for a message."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def reason(error: BaseException) -> str:
    """Return why a request failed: the system's word where there is one, else the first line of the message."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, TimeoutError):
            return "no answer in time"
        if isinstance(current, OSError) and current.strerror:
            return current.strerror
        current = current.__cause__ or current.__context__
    if isinstance(error, TrackingError) and error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.sub(r"(?<=://)[^/@\s]*@", "", line)
    line = line.rstrip(".")
    return line if len(line) <= 300 else f"{line[:299]}…"
