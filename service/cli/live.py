"""A run's progress as one live line in a terminal, or as a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli import output
from service.runs.states import State

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs.run_folder import Progress
    from service.contract.messages import RunView

SECONDS_BETWEEN_LINES = 10.0
TERMS = {"loss": "loss", "contrast": "contrast", "global_relation": "global", "local_relation": "local"}


class Line(NamedTuple):
    """A line where there is no terminal.

    Attributes:
        phase: The first line of one is printed at once, and others now and then.
        place: Where the run is: the same is not printed again.
        words: What is printed.
    """

    phase: str
    place: object
    words: str


class LiveRun:
    """Shows how far a run is.

    Args:
        since: When it was started, for the time that is gone.
    """

    def __init__(self, *, since: datetime) -> None:
        self._since = since
        self._console = output.progress()
        self._terminal = self._console.is_terminal
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._printed = Line("", None, "")
        self._printed_at = 0.0
        self._plan = ""

    def __enter__(self) -> Self:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._live.stop()

    def show(self, run: RunView) -> None:
        """Show the run as it is now."""
        progress = progress_of(run)
        plan = progress.get("plan", self._plan) if progress is not None else self._plan
        if plan != self._plan:
            self._plan = plan
            self._console.print(Text(plan))
        if self._terminal:
            self._live.update(self.picture(run))
        elif (line := self.line(run)) is not None:
            self._print_now_and_then(line)

    def say(self, text: str, *, style: str = "yellow") -> None:
        """Print a note above the live line."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the line away, as long as somebody is asked something."""
        if not self._terminal:
            yield
            return
        self._live.stop()
        yield
        self._live.start()

    def picture(self, run: RunView) -> RenderableType:
        """The run as it is shown in a terminal."""
        held = [Text(f"  {words}", style="yellow") for words in conditions_of(run)]
        progress = progress_of(run)
        if progress is None:
            return Group(Text(f"{run.state} · {waiting(run)}"), *held)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(progress["phase"], style="bold"),
            ProgressBar(total=max(progress.get("total_steps", 1), 1), completed=progress["step"], width=40),
            Text(line_of(progress, elapsed=self.elapsed(), phase=False)),
        )
        health = progress.get("health", "")
        style = "green" if health == "healthy" else "yellow"
        below = [
            Text(f"  {words}", style=style) for words, style in ((terms_of(progress), ""), (health, style)) if words
        ]
        return Group(bar, *below, *held)

    def line(self, run: RunView) -> Line | None:
        """The run where there is no terminal; None while there is nothing to say that its events do not say."""
        progress = progress_of(run)
        if progress is None:
            return None
        parts = (line_of(progress, elapsed=self.elapsed()), terms_of(progress), progress.get("health", ""))
        phase = progress["phase"]
        return Line(phase, (phase, progress["step"]), "  ".join(part for part in parts if part))

    def elapsed(self) -> float:
        """Seconds since it was started."""
        return max((datetime.now(UTC) - self._since).total_seconds(), 0.0)  # the service's clock may be ahead

    def _print_now_and_then(self, line: Line) -> None:
        if line.place == self._printed.place:
            return
        if line.phase == self._printed.phase and time.monotonic() - self._printed_at < SECONDS_BETWEEN_LINES:
            return
        self._printed, self._printed_at = line, time.monotonic()
        self._console.print(Text(line.words), soft_wrap=True)


def progress_of(run: RunView) -> Progress | None:
    """What a run's attempt said last of how far it is; None where none is at work, or it has said nothing yet."""
    if run.state not in (State.RUNNING, State.STOPPING) or not {"phase", "step"} <= (run.progress or {}).keys():
        return None
    return cast("Progress", run.progress)


def waiting(run: RunView) -> str:
    """What a run waits for that says nothing of its progress."""
    if run.state is State.RECOVERING and run.due is not None:
        left = (run.due - datetime.now(UTC)).total_seconds()
        return f"next attempt {f'in {clock(left)}' if left > 0 else 'now'}"
    return run.reason


def conditions_of(run: RunView) -> list[str]:
    """What is known about a run that decides nothing, and since when."""
    return [f"! {condition} since {since.astimezone():%H:%M}" for condition, since in run.conditions.items()]


def line_of(progress: Progress, *, elapsed: float | None = None, phase: bool = True) -> str:
    """Phase, step, epoch, speed, data wait, memory, elapsed and remaining time, always in this order."""
    parts = [progress["phase"]] if phase else []
    if "total_steps" in progress:
        parts.append(f"step {progress['step']}/{progress['total_steps']}")
        parts.append(f"epoch {progress['epoch']:.1f}/{progress['epochs']}")
    if progress.get("pictures_per_s"):
        parts.append(f"{progress['pictures_per_s']:,.0f} pictures/s")
        parts.append(f"data wait {progress['data_wait']:.1%}")
        parts.append(f"{progress['memory_gb']:.1f} GB")
    if elapsed is not None:
        parts.append(f"{clock(elapsed)} gone")
    if "eta_s" in progress and progress["phase"] == "training":
        parts.append(f"{clock(progress['eta_s'])} left")
    return " · ".join(parts)


def terms_of(progress: Progress) -> str:
    """The loss terms and the latest k-NN."""
    metrics = progress.get("metrics", {})
    shown = [f"{label} {metrics[f'train/{name}']:.3f}" for name, label in TERMS.items() if f"train/{name}" in metrics]
    if (knn := knn_of(progress)) is not None:
        shown.append(f"k-NN {knn:.1f} %")
    return " ".join(shown)


def knn_of(progress: Progress) -> float | None:
    """The latest k-NN accuracy, in per cent; None before the first probe, or without labels."""
    judged = [progress.get("metrics", {}), *(probe["metrics"] for probe in progress.get("probes", []))]
    return next((metrics["valid/knn"] for metrics in reversed(judged) if "valid/knn" in metrics), None)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
