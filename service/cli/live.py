"""A run's progress as one live line in a terminal, or as a line now and then where there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.errors import RecoError
from service.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs.run_folder import Progress, RunFolder

SECONDS_BETWEEN_LINES = 10.0
TERMS = {"loss": "loss", "contrast": "contrast", "global_relation": "global", "local_relation": "local"}


class LiveRun:
    """Shows the progress record of a run.

    Args:
        folder: The run's folder.
        since: When the run was started, in seconds since the epoch.
    """

    def __init__(self, folder: RunFolder, *, since: float) -> None:
        self._folder = folder
        self._since = since
        self._console = output.progress()
        self._terminal = self._console.is_terminal
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._printed: tuple[str, int] = ("", -1)
        self._printed_at = 0.0
        self._planned = False
        self._blind = False

    def __enter__(self) -> Self:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._live.stop()

    def refresh(self) -> None:
        """Read the record and show it; where it cannot be read, the run goes on unseen, which is said once."""
        try:
            progress = self._folder.progress()
        except RecoError as error:
            if not self._blind:
                self.say(f"progress cannot be read at the moment: {error.message}")
            self._blind = True
            return
        self._blind = False
        if progress is None:
            return
        if "plan" in progress and not self._planned:
            self._planned = True
            self._console.print(Text(progress["plan"]))
        if self._terminal:
            self._live.update(self._picture(progress))
        else:
            self._print_now_and_then(progress)

    def say(self, text: str) -> None:
        """Print a note above the live line."""
        self._console.print(Text(text, style="yellow"))

    def _picture(self, progress: Progress) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(progress["phase"], style="bold"),
            ProgressBar(total=max(progress.get("total_steps", 1), 1), completed=progress["step"], width=40),
            Text(line_of(progress, elapsed=time.time() - self._since, phase=False)),
        )
        health = progress.get("health", "")
        style = "green" if health == "healthy" else "yellow"
        return Group(bar, Text(f"  {terms_of(progress)}"), Text(f"  {health}", style=style))

    def _print_now_and_then(self, progress: Progress) -> None:
        now = (progress["phase"], progress["step"])
        if now == self._printed:
            return
        if now[0] == self._printed[0] and time.monotonic() - self._printed_at < SECONDS_BETWEEN_LINES:
            return
        self._printed, self._printed_at = now, time.monotonic()
        line = line_of(progress, elapsed=time.time() - self._since)
        self._console.print(
            Text("  ".join(part for part in (line, terms_of(progress), progress.get("health", "")) if part))
        )


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
    if "valid/knn" in metrics:
        shown.append(f"k-NN {metrics['valid/knn']:.1f} %")
    return " ".join(shown)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
