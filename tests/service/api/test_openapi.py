"""The description of the API: kept beside the code, and complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.api.openapi import document
from service.api.roles import LEAST
from service.contract.messages import Submission
from tests.service.api.serving import Api

KEPT = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_kept_description_is_the_codes() -> None:
    told = "`python -m service.api.openapi > docs/openapi.json` writes it anew"
    assert json.loads(KEPT.read_text()) == document(), told


def test_the_api_serves_its_description(shared: Api) -> None:
    assert shared.ask("GET", "/openapi.json").json() == document()


def test_every_operation_says_who_may_call_it_and_how_it_fails() -> None:
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert ("security" in operation) == (operation["operationId"] in LEAST)
            for status in ("4XX", "5XX"):
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"]


def test_examples_are_what_they_are_examples_of() -> None:
    body = document()["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) == 3
    for example in body["examples"].values():
        Submission.model_validate(example["value"])


@pytest.mark.parametrize("name", ["run", "sweep", "changed"])
def test_an_example_can_be_submitted(shared: Api, name: str) -> None:
    body = document()["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]
    with shared.client("runner") as client:
        answer = client.post("/v1/runs", json=body["examples"][name]["value"])
        assert answer.status_code == 201, answer.text
