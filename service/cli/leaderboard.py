"""The trials of a sweep as a table, the best first: live in a terminal, else a line now and then."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from jobs.errors import RecoError
from service.cli import output
from service.cli.live import SECONDS_BETWEEN_LINES, Line, LiveRun, clock, conditions_of, line_of, waiting

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import RenderableType
    from rich.table import Table

    from jobs.spec import Sweep
    from jobs.sweeps.folder import SweepFolder
    from jobs.sweeps.ledger import Trial
    from service.contract.interface import Runs
    from service.contract.messages import RunView, SweepBoard

_BOARD_EVERY_S = 3.0
_STYLES = {"finished": None, "running": "cyan", "stopped early": "dim", "failed": "red"}


class Leaderboard:
    """Shows what the ledger of a sweep and the progress of its runs say.

    Args:
        folder: The sweep's.
        sweep: What is searched.

    Attributes:
        seconds_unchanged: How long what is shown has been the same.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep) -> None:
        self._folder, self._sweep = folder, sweep
        self._ledger = folder.ledger()
        self._console = output.progress()
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._seen: object = None
        self._changed = self._printed = time.monotonic()
        self._blind = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    @property
    def seconds_unchanged(self) -> float:
        """How long what is shown has been the same."""
        return time.monotonic() - self._changed

    def trials(self) -> list[Trial]:
        """What became of each so far."""
        from jobs.sweeps.ledger import trials_of

        return trials_of(self._ledger.events())

    def refresh(self) -> None:
        """Read and show; where nothing can be read, the sweep goes on unseen, which is said once."""
        try:
            trials = self.trials()
            where = {trial.number: self._where(trial) for trial in trials if trial.status == "running"}
        except RecoError as error:
            if not self._blind:
                self.say(f"the sweep's folder cannot be read at the moment: {error.message}")
            self._blind = True
            self._changed = time.monotonic()  # whether it has changed is not known
            return
        self._blind = False
        seen = (len(self._ledger.events()), tuple(where.items()), self._full_run(trials))
        if seen != self._seen:
            self._seen, self._changed = seen, time.monotonic()
        if self._console.is_terminal:
            self._live.update(self._table(trials, where))
            return
        if self._changed > self._printed and time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._console.print(Text(self._full_run(trials) or self._headline(trials)))

    def say(self, text: str) -> None:
        """Print a note above the table."""
        self._console.print(Text(text, style="yellow"))

    def picture(self) -> RenderableType:
        """The table as it is now."""
        trials = self.trials()
        return self._table(trials, {trial.number: self._where(trial) for trial in trials if trial.status == "running"})

    def _where(self, trial: Trial) -> str:
        progress = self._folder.run(trial.number).progress()
        if progress is None or "epoch" not in progress:
            return "starting"
        return f"{progress['phase']}, epoch {progress['epoch']:.1f}/{progress['epochs']}"

    def _table(self, trials: list[Trial], where: dict[int, str]) -> RenderableType:
        from jobs.sweeps.ledger import ranked
        from service.contract.messages import SweepBoard, TrialView

        mode, metric = self._sweep.spec.objective.mode, self._sweep.metric
        views = [
            TrialView(
                number=trial.number,
                state=where.get(trial.number, trial.status),
                values={path: trial.values[path] for path in self._sweep.space},
                objective=trial.objective,
                epochs=trial.epoch,
                reason=trial.reason,
            )
            for trial in ranked(trials, mode=mode)
        ]
        board = SweepBoard(
            sweep_id=self._folder.sweep_id, metric=metric, mode=mode, wanted=self._sweep.trials, trials=views
        )
        full = self._full_run(trials)
        return Group(Text(self._headline(trials), style="bold"), table_of(board), *([Text(full)] if full else []))

    def _full_run(self, trials: list[Trial]) -> str:
        """How far the run that trains the best configuration in full is; empty where none is under way."""
        if any(trial.ended is None for trial in trials) or self._folder.outcome() is not None:
            return ""
        run = self._folder.full_run()
        progress = run.progress()
        return "" if progress is None else f"the best in full, run {run.run_id}: {line_of(progress)}"

    def _headline(self, trials: list[Trial]) -> str:
        from jobs.sweeps.ledger import best_of

        ended = [trial for trial in trials if trial.ended is not None]
        running = sum(trial.ended is None for trial in trials)
        parts = [f"{len(ended)} of {self._sweep.trials} trials done"]
        best = best_of(trials, mode=self._sweep.spec.objective.mode)
        if best is not None:
            parts.append(f"best {best.objective:.2f} (trial {best.number})")
        if self._folder.outcome() is None:
            parts.append(f"{clock(self._folder.spent()['wall_s'])} gone")
            if ended:
                mean = sum((trial.ended or 0.0) - trial.began for trial in ended) / len(ended)
                left = (self._sweep.trials - len(ended)) * mean / max(running, 1)
                parts.append(f"about {clock(left)} left")
        return " · ".join(parts)


class LiveBoard(LiveRun):
    """Shows the leaderboard of a sweep that the service carries out.

    Args:
        runs: Where it is asked for.
        since: When it was started.
    """

    def __init__(self, runs: Runs, *, since: datetime) -> None:
        super().__init__(since=since)
        self._runs = runs
        self._board: SweepBoard | None = None
        self._asked = -math.inf

    def picture(self, run: RunView) -> RenderableType:
        """See `LiveRun.picture`."""
        board = self._latest(run)
        held = [Text(words, style="yellow") for words in conditions_of(run)]
        if board is None or not board.trials:
            return Group(Text(f"{run.state} · {waiting(run)}"), *held)
        return Group(Text(f"{headline_of(board)} · {run.state}", style="bold"), table_of(board), *held)

    def line(self, run: RunView) -> Line | None:
        """See `LiveRun.line`."""
        board = self._latest(run)
        if board is None or not board.trials:
            return None
        words = headline_of(board)
        return Line(run.state, words, f"{words} · {clock(self.elapsed())} gone")

    def _latest(self, run: RunView) -> SweepBoard | None:
        # Its ledger is read for each: a storage is not asked as often as a terminal is painted.
        if run.state.is_final or time.monotonic() - self._asked > _BOARD_EVERY_S:
            self._board = self._runs.board(run.id)
            self._asked = time.monotonic()
        return self._board


def headline_of(board: SweepBoard) -> str:
    """How many trials are done, and the best."""
    running = sum(trial.state == "running" for trial in board.trials)
    parts = [f"{len(board.trials) - running} of {board.wanted} trials done"]
    best = next((trial for trial in board.trials if trial.state == "finished"), None)
    if best is not None:
        parts.append(f"best {best.objective:.2f} (trial {best.number})")
    return " · ".join(parts)


def table_of(board: SweepBoard) -> Table:
    """The trials as they are ranked; the first that came to its end is the best."""
    names = short_names(list(board.trials[0].values) if board.trials else [])
    table = output.table("Trial", "State", board.metric, "Epochs", *names.values())
    best = next((trial.number for trial in board.trials if trial.state == "finished"), None)
    for trial in board.trials:
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        style = "bold green" if trial.number == best else _STYLES.get(trial.state, _STYLES["running"])
        cells = [str(trial.number), state, "" if trial.objective is None else f"{trial.objective:.2f}"]
        cells += [f"{trial.epochs:.0f}" if trial.epochs else "", *(_shown(trial.values[path]) for path in names)]
        table.add_row(*map(Text, cells), style=style)
    return table


def short_names(paths: list[str]) -> dict[str, str]:
    """The shortest end of each path that no other has; paths by themselves."""
    names = {}
    for path in paths:
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum(each == name or each.endswith(f".{name}") for each in paths) == 1:
                break
        names[path] = name
    return names


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
