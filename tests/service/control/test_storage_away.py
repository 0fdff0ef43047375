"""Storage that is away: people are told soon, although a job would wait for minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jobs.errors import RecoError
from service.contract.interface import Runs
from service.contract.messages import Submission
from service.control import datasets, planning
from service.control.control import Control
from service.runs.records import NewRun
from service.web import curves
from service.web.curves import Curves
from tests.s3 import S3Server

SPEC = (
    "name: photos\ndata: {train: s3://datasets/photos, image_size: 32}\nencoder: {name: resnet10}\ntrain: {epochs: 8}\n"
)


@pytest.fixture(autouse=True)
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server at the address of S3, and patience of a moment."""
    S3Server("http://127.0.0.1:9", "key", "secret", conditional_writes=True).use(monkeypatch)
    for module in (datasets, planning, curves):
        monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 30.0


def test_the_list_of_data_sets_says_which_cannot_be_read(control: Control, runs: Runs) -> None:
    control.store.create(NewRun("one", "photos", SPEC, "hash", "ann"))
    [dataset] = runs.datasets()
    assert dataset.url == "s3://datasets/photos"
    assert dataset.problem is not None


def test_a_plan_says_that_its_data_cannot_be_read(runs: Runs) -> None:
    assert any("cannot be read from here" in each for each in runs.plan(Submission(spec=SPEC)).warnings)


def test_the_curves_of_a_run_are_given_up(control: Control, runs: Runs) -> None:
    control.store.create(NewRun("one", "photos", SPEC, "hash", "ann", storage="s3://runs"))
    with pytest.raises(RecoError):
        Curves().records(runs.show("one"))
