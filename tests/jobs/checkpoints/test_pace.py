"""When checkpoints are due; time is handed in, never waited for."""

from __future__ import annotations

import pytest

from jobs.checkpoints.pace import Pace
from jobs.spec.models import CheckpointSpec


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def saved(pace: Pace, clock: Clock, step: int, *, seconds: float) -> None:
    with pace.saving(step):
        clock.now += seconds


def test_an_interval_in_steps_is_kept_whatever_it_costs() -> None:
    clock = Clock()
    pace = Pace(CheckpointSpec(every="10 steps"), step=5, clock=clock)
    assert [pace.due(step) for step in (14, 15)] == [False, True]
    saved(pace, clock, 15, seconds=500)
    assert [pace.due(step) for step in (24, 25)] == [False, True]


def test_an_interval_in_seconds_is_stretched_to_a_hundred_times_what_saving_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    pace = Pace(CheckpointSpec(every="1m"), step=0, clock=clock)
    clock.now += 59
    assert not pace.due(1)
    clock.now += 1
    assert pace.due(1)
    saved(pace, clock, 1, seconds=0.5)
    assert not caplog.records
    clock.now += 60
    assert pace.due(2)
    saved(pace, clock, 2, seconds=3)
    assert "3.0 s" in caplog.text
    clock.now += 299
    assert not pace.due(3)
    clock.now += 1
    assert pace.due(3)
    # A storage that has become fast again gets the interval that was asked for.
    saved(pace, clock, 3, seconds=0.1)
    clock.now += 60
    assert pace.due(4)


def test_a_failed_save_does_not_count() -> None:
    clock = Clock()
    pace = Pace(CheckpointSpec(every="10 steps"), step=0, clock=clock)
    with pytest.raises(OSError, match="full"), pace.saving(10):
        raise OSError("full")
    assert pace.due(10)
    assert pace.share == 0


def test_by_the_clock_it_waits_for_the_one_under_way_and_makes_up_for_one_that_was_missed() -> None:
    clock = Clock()
    pace = Pace(CheckpointSpec(every="1m"), step=0, clock=clock)
    clock.now += 60
    assert not pace.due(1, busy=True)
    saved(pace, clock, 1, seconds=0.1)
    clock.now += 1
    assert not pace.due(2)
    assert pace.due(2, owing=True)
    assert not pace.due(2, owing=True, busy=True)


def test_the_share_of_the_time_is_known() -> None:
    clock = Clock()
    pace = Pace(CheckpointSpec(every="1m"), step=0, clock=clock)
    clock.now += 98
    saved(pace, clock, 1, seconds=2)
    assert pace.share == pytest.approx(0.02)
