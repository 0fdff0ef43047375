"""Where the time goes between two logging steps, and what else is summed up there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from jobs.loading.messages import Counters
from jobs.training.ranks import Ranks

Phase = Literal["wait", "views", "forward", "backward", "update"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""The parts of a step in order; `wait` is for the pictures and for whatever came between two steps."""
KEPT = 16
"""Steps whose moments are kept: enough for a mean, whatever the length of a window."""

Moment = float | torch.cuda.Event


class Phases:
    """The parts of the latest steps, timed without ever holding up the device.

    On a GPU a moment is an event in the stream of its work, read only when the window closes; on a CPU it is the clock.
    A step's first phase begins where the step before ended, or where this was made.

    Args:
        device: Where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._now = _event if device.type == "cuda" else time.perf_counter
        self._step: list[Moment] = [self._now()]
        self._steps: deque[list[Moment]] = deque(maxlen=KEPT)

    def passed(self, phase: Phase) -> None:
        """Note that a phase has ended, and with it the step when it is the last.

        Raises:
            ValueError: If it is not the next phase.
        """
        if PHASES[len(self._step) - 1] != phase:
            raise ValueError(f"{phase} ended where {PHASES[len(self._step) - 1]} was under way")
        self._step.append(self._now())
        if phase == PHASES[-1]:
            self._steps.append(self._step)
            self._step = self._step[-1:]

    def fractions(self) -> dict[Phase, float]:
        """Each phase's part of a step, over the latest steps that the device has finished; they sum to 1.

        Where it has finished none, the first of them is waited for: the metrics, which are read next, are those of the
        last. Without a whole step all are 0, so that ranks always have the same names to average.
        """
        finished = [step for step in self._steps if _is_over(step[-1])]
        if not finished and self._steps:
            finished = [self._steps[0]]
            _wait_for(finished[0][-1])
        parts = [[_seconds(start, end) for start, end in pairwise(step)] for step in finished]
        whole = sum(map(sum, parts))
        if whole <= 0:
            return dict.fromkeys(PHASES, 0.0)
        return {phase: sum(part) / whole for phase, part in zip(PHASES, zip(*parts, strict=True), strict=True)}


class Window:
    """What is summed up between two logging steps; nothing is read back from the device before the window closes.

    Args:
        device: Where the terms are.
        counters: What the loader has done before.

    Attributes:
        waited: Seconds this process waited for pictures.
        phases: Where the time of its steps goes.
        steps: How many were added.
    """

    waited: float
    phases: Phases
    steps: int

    def __init__(self, device: torch.device, counters: Counters) -> None:
        self.waited = 0.0
        self.phases = Phases(device)
        self._started = time.perf_counter()
        self._device = device
        self._before = counters
        self.steps = self._taken_up = 0
        self._finite = torch.zeros((), dtype=torch.int64, device=device)
        self._sums: dict[str, Tensor] = {}

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Around what is no part of a step, and would make its time mean nothing: a probe, a checkpoint."""
        start = time.perf_counter()
        yield
        self._started += time.perf_counter() - start
        self.phases = Phases(self._device)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the terms of one step, `loss` among them."""
        self._finite += terms["loss"].isfinite() & (self._finite == self.steps)
        self.steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """The terms of the steps so far, for a run that stops before the window closes; all ranks take part."""
        if not self.steps:
            return {}
        sums = ranks.mean(torch.stack(list(self._sums.values())))
        return {"steps": self.steps, "sums": dict(zip(self._sums, sums.cpu(), strict=True))}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, on any number of ranks: each holds the mean of all."""
        if not state:
            return
        self.steps = self._taken_up = state["steps"]
        self._finite += self.steps
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}

    @property
    def finite_steps(self) -> int:
        """Steps before the first whose loss was no number; waits for the device."""
        return int(self._finite)

    def close(
        self, ranks: Ranks, counters: Counters, agree: dict[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The window's metrics, and what all ranks bring to agree on; one reduction for all of it.

        Args:
            ranks: Those that meet here.
            counters: What the loader has done by now.
            agree: Numbers by name.

        Returns:
            Metrics: means over the window and all ranks, but the sums over all ranks of what was read; and the sums of
            `agree` over all ranks.
        """
        elapsed = time.perf_counter() - self._started
        done = counters - self._before
        local = {
            "time/step_s": elapsed / (self.steps - self._taken_up),
            "time/data_wait": self.waited / elapsed,
            **{f"time/{phase}": part for phase, part in self.phases.fractions().items() if phase != "wait"},
            "data/bytes_per_s": done.bytes_read / elapsed * ranks.world_size,
            "data/decode_ms": 1e3 * done.decode_s / max(done.pictures, 1),
            "data/retries": float(done.retries * ranks.world_size),
            "data/replaced": float(done.replaced * ranks.world_size),
            "data/loader_restarts": float(done.restarts * ranks.world_size),
            **{name: value * ranks.world_size for name, value in agree.items()},
        }
        numbers = torch.tensor(list(local.values()), device=self._device, dtype=torch.float64)
        terms = torch.stack(list(self._sums.values())).double() / self.steps
        values: list[float] = ranks.mean(torch.cat([terms, numbers])).tolist()
        metrics = {f"train/{name}": value for name, value in zip(self._sums, values, strict=False)}
        metrics |= dict(zip(local, values[len(self._sums) :], strict=True))
        return metrics, {name: metrics.pop(name) for name in agree}


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _is_over(moment: Moment) -> bool:
    return isinstance(moment, float) or bool(moment.query())  # type: ignore[no-untyped-call]


def _wait_for(moment: Moment) -> None:
    if not isinstance(moment, float):
        moment.synchronize()


def _seconds(start: Moment, end: Moment) -> float:
    if isinstance(start, float) or isinstance(end, float):
        return float(end) - float(start)  # type: ignore[arg-type]  # a run has moments of one kind
    return float(start.elapsed_time(end)) / 1e3
