"""docs/api.md keeps up with what the service reads from the environment, and with its roles and addresses."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import service.api.settings
import service.settings
from service.api.routes import access, models, runs
from service.client import address, client

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


def test_every_variable_of_the_environment_is_described() -> None:
    sources = "".join(map(inspect.getsource, (service.api.settings, service.settings, address, client)))
    named = set(re.findall(r"\b(?:RECO|RAY|MLFLOW)_[A-Z0-9_]+\b", sources))
    assert len(named) > 10
    assert sorted(name for name in named if f"`{name}`" not in PAGE) == []


def test_every_address_is_in_the_table() -> None:
    table = PAGE.split("## What there is")[1].split("##")[0]
    ends = {route.path.rsplit("/", 1)[-1] for part in (runs, models, access) for route in part.router.routes}
    assert len(ends) > 15
    ends = {re.sub(r"\{\w+_id\}", "{id}", end) for end in ends}
    assert sorted(end for end in ends if end not in table) == []
