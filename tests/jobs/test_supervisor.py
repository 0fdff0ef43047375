"""What is decided after a failure, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.spec import parse_spec
from jobs.supervisor import Restarts
from tests.pictures import tiny_spec


def test_failures_count_until_a_new_checkpoint() -> None:
    restarts = Restarts(2)
    assert restarts.failed(10, outside=False) == 0.0
    assert restarts.failed(10, outside=False) == 2.0
    assert restarts.failed(20, outside=False) == 0.0  # it had got further meanwhile
    assert restarts.failed(20, outside=False) == 2.0
    assert restarts.failed(20, outside=False) is None


def test_what_the_run_is_not_to_blame_for_never_ends_it_but_is_tried_more_and_more_seldom() -> None:
    restarts = Restarts(0)
    waits = [restarts.failed(0, outside=True) for _ in range(10)]
    assert waits[:4] == [0.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 60.0
    assert restarts.failed(0, outside=False) is None


@pytest.mark.parametrize(("room", "fitting"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (20, 8)])
def test_as_many_workers_as_fit_and_share_the_groups_equally(room: int, fitting: int) -> None:
    changes = {"scale__workers": 8, "scale__min_workers": 2, "method__groups": 8}
    assert parse_spec(tiny_spec(Path("x"), **changes)).workers_that_fit(room) == fitting


def test_without_fewest_workers_it_is_all_or_none() -> None:
    spec = parse_spec(tiny_spec(Path("x"), scale__workers=4))
    assert [spec.workers_that_fit(room) for room in range(6)] == [0, 0, 0, 0, 4, 4]


def test_the_fewest_cannot_be_more_than_all() -> None:
    with pytest.raises(UserError, match=r"scale.min_workers: 3 is more than scale.workers 2"):
        parse_spec(tiny_spec(Path("x"), scale__workers=2, scale__min_workers=3))
