"""Runs that MLflow finds, as plain values: hundreds at once, in a fifth of the CPU time of MLflow's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from jobs.tracking.client import client

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 1000
_PATH = "/api/2.0/mlflow/runs/search"
_NEWEST_FIRST = ["attributes.start_time DESC"]


@dataclass(frozen=True)
class FoundRun:
    """A run as MLflow holds it.

    Attributes:
        mlflow_run_id: Run id of MLflow.
        experiment_id: Experiment it is in.
        status: RUNNING, FINISHED, FAILED or KILLED.
        params: By name.
        tags: By name.
        metrics: The newest value of each.
    """

    mlflow_run_id: str
    experiment_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]


class _Pair(TypedDict, total=False):
    key: str
    value: str | float  # a number that JSON has not, such as NaN, comes as a text


class _Data(TypedDict, total=False):
    params: list[_Pair]
    tags: list[_Pair]
    metrics: list[_Pair]


class _Run(TypedDict, total=False):
    info: dict[str, str]
    data: _Data


class _Answer(TypedDict, total=False):
    runs: list[_Run]
    next_page_token: str


def search(uri: str, experiment_id: str, query: str) -> Iterator[FoundRun]:
    """Find all runs that a filter lets through, the newest first, in pages of `PAGE`.

    Args:
        uri: Address of the tracking server.
        experiment_id: Where to look.
        query: MLflow's filter; empty for every run.

    Raises:
        MlflowException: The server did not answer or refused; `jobs.tracking.client.explained` puts it into words.
    """
    token: str | None = None
    while True:
        if uri.startswith(("http://", "https://")):
            found, token = _page(uri, experiment_id, query, token)
        else:
            page = client(uri).search_runs(
                [experiment_id], query, max_results=PAGE, order_by=_NEWEST_FIRST, page_token=token
            )
            found, token = [as_found(run) for run in page], page.token
        yield from found
        if not token:
            return


def as_found(run: Run) -> FoundRun:
    """One of MLflow's runs as plain values."""
    return FoundRun(
        mlflow_run_id=str(run.info.run_id),
        experiment_id=str(run.info.experiment_id),
        status=str(run.info.status),
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
    )


def _page(uri: str, experiment_id: str, query: str, token: str | None) -> tuple[list[FoundRun], str | None]:
    client(uri)  # MLflow's settings, before its modules read them
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    # Credentials, retries and errors are MLflow's; only its way from JSON through protobuf to entities is left out.
    body: dict[str, object] = {"experiment_ids": [experiment_id], "max_results": PAGE, "order_by": _NEWEST_FIRST}
    body |= {"filter": query} if query else {}
    body |= {"page_token": token} if token else {}
    response = http_request(get_default_host_creds(uri), _PATH, "POST", json=body)
    answer: _Answer = json.loads(verify_rest_response(response, _PATH).content)
    return [_parsed(run) for run in answer.get("runs", [])], answer.get("next_page_token")


def _parsed(run: _Run) -> FoundRun:
    info, data = run["info"], run.get("data", _Data())
    return FoundRun(
        mlflow_run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        status=info["status"],
        params={each["key"]: str(each.get("value", "")) for each in data.get("params", [])},
        tags={each["key"]: str(each.get("value", "")) for each in data.get("tags", [])},
        metrics={each["key"]: float(each.get("value", 0.0)) for each in data.get("metrics", [])},
    )
