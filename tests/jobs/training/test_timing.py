"""Where a step's time goes, by clocks and events that say what the test wants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from jobs.training import timing
from jobs.training.timing import KEPT, PHASES, Phases


class FakeDevice:
    """A GPU's timeline in milliseconds: each event is recorded at the next of `times`, and is over up to `reached`."""

    def __init__(self, times: Iterator[float], reached: float) -> None:
        self.times, self.reached, self.waits = times, reached, 0

    def event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.at = device, -1.0

    def record(self) -> None:
        self.at = next(self.device.times)

    def query(self) -> bool:
        return self.at <= self.device.reached

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.reached = self.at

    def elapsed_time(self, end: FakeEvent) -> float:
        assert end.query(), "an event that is not over has no time"
        return end.at - self.at


def run(phases: Phases, steps: int) -> Phases:
    for _ in range(steps):
        for phase in PHASES:
            phases.passed(phase)
    return phases


def test_fractions_are_of_all_steps_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 2.0, 5.0, 9.0, 10.0, 11.0, 14.0, 17.0, 29.0, 30.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(moments))
    found = run(Phases(torch.device("cpu")), 2).fractions()
    assert found == pytest.approx(
        {"wait": 2 / 30, "views": 4 / 30, "forward": 6 / 30, "backward": 16 / 30, "update": 2 / 30}
    )


def test_only_the_latest_steps_count(monkeypatch: pytest.MonkeyPatch) -> None:
    early = [float(number) for number in range(5 * 3 + 1)]
    late = [15.0 + 10.0 * (number // 5) + (0, 0, 0, 10, 10)[number % 5] for number in range(5 * KEPT)]
    moments = iter(early + late)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(moments))
    found = run(Phases(torch.device("cpu")), 3 + KEPT).fractions()
    assert found == {"wait": 0.0, "views": 0.0, "forward": 0.0, "backward": 1.0, "update": 0.0}


def test_without_a_whole_step_every_fraction_is_nothing() -> None:
    phases = Phases(torch.device("cpu"))
    phases.passed("wait")
    assert phases.fractions() == dict.fromkeys(PHASES, 0.0)


def test_phases_come_in_order() -> None:
    phases = Phases(torch.device("cpu"))
    with pytest.raises(ValueError, match="forward ended where wait was under way"):
        phases.passed("forward")


def test_steps_the_device_has_not_finished_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(iter([0.0, 1.0, 2.0, 4.0, 8.0, 10.0, 50.0, 60.0, 70.0, 80.0, 90.0]), reached=75.0)
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    found = run(Phases(torch.device("cuda")), 2).fractions()
    assert found == pytest.approx({"wait": 0.1, "views": 0.1, "forward": 0.2, "backward": 0.4, "update": 0.2})
    assert device.waits == 0


def test_the_first_step_is_waited_for_when_none_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(iter([0.0, 1.0, 2.0, 4.0, 8.0, 10.0, 50.0, 60.0, 70.0, 80.0, 90.0]), reached=3.0)
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    found = run(Phases(torch.device("cuda")), 2).fractions()
    assert found == pytest.approx({"wait": 0.1, "views": 0.1, "forward": 0.2, "backward": 0.4, "update": 0.2})
    assert (device.waits, device.reached) == (1, 10.0)
