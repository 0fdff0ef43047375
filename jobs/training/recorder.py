"""Where a run's metrics go besides its own folder."""

from __future__ import annotations

from typing import Protocol


class Recorder(Protocol):
    """Takes what logging steps measured. It never blocks the loop and never raises for an outage of its own."""

    def log(self, step: int, pictures: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step, after `pictures` pictures were seen in all."""


class NoRecorder:
    """Records nothing: the run's folder keeps its metrics anyway."""

    def log(self, step: int, pictures: int, metrics: dict[str, float]) -> None:
        """Do nothing."""
