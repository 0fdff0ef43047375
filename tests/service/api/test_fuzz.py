"""The API against requests made from its own description: none may break it, or be answered otherwise than it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from service.api.openapi import document
from service.runs.states import State
from tests.service.api.serving import Api, open_api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]
KNOWN = "photos-20261123-2210"
"""The example of the description: a run that is there."""

schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, uri: str) -> Iterator[Api]:
    with pytest.MonkeyPatch.context() as patch, open_api(tmp_path_factory.mktemp("fuzz") / "home") as api:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        api.run(KNOWN, State.FAILED)
        yield api


def call(api: Api, case: schemathesis.Case) -> None:
    if case.operation.path.endswith("/tokens/{token_id}"):
        case.path_parameters["token_id"] = "00"  # or it might end the token that all the others are sent with
    # No event streams: one of a run that has not ended would have no end.
    headers = {"Authorization": f"Bearer {api.secret()}", "Accept": "application/json"}
    case.call_and_validate(base_url=api.url, headers=headers, checks=CHECKS, timeout=30)


@schema.parametrize()
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
def test_requests_made_from_the_description_are_answered_as_it_says(case: schemathesis.Case, api: Api) -> None:
    call(api, case)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_very_many_requests_made_from_the_description_are_answered_as_it_says(
    case: schemathesis.Case, api: Api
) -> None:
    call(api, case)
