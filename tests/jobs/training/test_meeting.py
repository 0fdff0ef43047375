"""Ranks ask each other every few seconds, counted in steps; time is handed in."""

from __future__ import annotations

import torch

from jobs.training.meeting import Meetings
from jobs.training.ranks import Ranks
from tests.ranks import run_on_ranks


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def met(step_s: float, *, steps: int) -> list[int]:
    clock = Clock()
    meetings = Meetings(Ranks(0, 1, torch.device("cpu")), step=10, clock=clock)
    found = []
    for step in range(11, 11 + steps):
        clock.now += step_s
        if meetings.due(step):
            assert not meetings.agree(step, stop=False)
            found.append(step)
    return found


def test_short_steps_meet_seldom_and_long_ones_each_time() -> None:
    assert met(0.5, steps=25) == [11, 21, 31]
    assert met(30.0, steps=3) == [11, 12, 13]


def on_a_rank(rank: int, world_size: int) -> None:
    clock = Clock()
    meetings = Meetings(Ranks(rank, world_size, torch.device("cpu")), step=0, clock=clock)
    clock.now += 0.25 + 0.5 * rank  # their mean is half a second
    assert not meetings.agree(1, stop=False)
    assert not meetings.due(10)
    assert meetings.due(11)
    assert meetings.agree(11, stop=rank == 1)


def test_all_ranks_stop_where_one_was_asked_and_count_alike() -> None:
    run_on_ranks(on_a_rank, 2)
