"""What the tests of backends share: a Ray head, and a place by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.backends.places import Place
from tests.service.backends.ray_head import RayHead, serve_ray

_numbers = itertools.count(1)


@pytest.fixture(scope="package")  # its daemons would slow down all the tests that follow
def ray_head() -> Iterator[RayHead]:
    with serve_ray() as head:
        yield head


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place that a backend starts jobs at."""
    if request.param == "local":
        return Place("local", str(tmp_path / "jobs"))
    head: RayHead = request.getfixturevalue("ray_head")
    return Place("ray", head.address, head.token)


@pytest.fixture
def job_id() -> str:
    """One that no other test has used."""
    return f"run{next(_numbers)}-a1"
