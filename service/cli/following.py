"""Following a run to its end: what happens to it in words, its live line, and what Ctrl-C means meanwhile."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, cast

import typer

from jobs.errors import RecoError, UserError
from service.cli import asking, connect, output
from service.cli.interrupts import Interrupts
from service.cli.leaderboard import LiveBoard
from service.cli.live import LiveRun
from service.cli.results import show_results
from service.runs.errors import TransitionError
from service.runs.states import State

if TYPE_CHECKING:
    from jobs.job_folder import Outcome
    from service.contract.interface import Runs
    from service.contract.messages import EventView, RunDetails, RunView

POLL_S, POLL_API_S = 0.5, 2.0  # an API has others to answer, too
INTERRUPTED = 130
_LAST_LINES = 15
_QUIET = ("created", "accepted")
"""Events that say nothing to who has just submitted the run."""


class _DetachedError(Exception):
    """Whoever followed the run has left, and it goes on."""


@dataclass
class Follower:
    """Shows a run until it has ended.

    Attributes:
        runs: Where it is asked for.
        run_id: The run.
        live: Shows it.
        after: Number of the last event that is known already.
        stopping: Somebody asked it to stop.
        viewing: Whoever watches it has not started it: Ctrl-C and SIGTERM end the watching only.
    """

    runs: Runs
    run_id: str
    live: LiveRun
    after: int = 0
    stopping: bool = False
    viewing: bool = False
    _silent: bool = False
    _waits: bool = False
    _keeper: connect.Keeper = field(default_factory=connect.Keeper)

    def follow(self) -> RunDetails:
        """Show it until it has ended; returns how it did.

        Raises:
            typer.Exit: Whoever was asked has detached.
            KeyboardInterrupt: The second Ctrl-C; the run goes on, as was said.
        """
        poll_s = POLL_S if connect.api() is None else POLL_API_S
        with Interrupts() as interrupts, self.live:
            try:
                while True:
                    run = self._look()
                    if run is not None and run.state.is_final:
                        return run
                    if interrupts.wait(poll_s):
                        self._answer(interrupts)
            except _DetachedError:
                pass
            except KeyboardInterrupt:
                self.live.say(self._goes_on())
                raise
        output.note(self._goes_on())
        raise typer.Exit

    def _look(self) -> RunDetails | None:
        """Tell what is new; None where the service does not answer, which says nothing of the run."""
        try:
            self._keeper.look()
            if self._keeper.waits and not self._waits:
                self.live.say("the service was taken down; what it worked on goes on after the next `reco up`")
            self._waits = self._keeper.waits
            # Asked first: what happened before it ended is told before it is.
            run = self.runs.show(self.run_id)
            events = self.runs.events(self.run_id, after=self.after) if run.version > self.after else []
        except UserError:
            raise
        except RecoError as error:
            if not self._silent:
                self.live.say(f"! no answer, which says nothing of the run: {error.message}")
            self._silent = True
            return None
        if self._silent:
            self.live.say("the service answers again", style="dim")
            self._silent = False
        for event in events:
            self.after = event.number
            if event.kind not in _QUIET:
                self.live.say(in_words(event), style=style_of(event))
        with contextlib.suppress(RecoError):  # a leaderboard that cannot be read now ends nothing
            self.live.show(run)
        return run

    def _answer(self, interrupts: Interrupts) -> None:
        """Ask what Ctrl-C was to mean; where nobody can be asked, or nothing else is left, it means to stop.

        To a run that is only being looked at it means nothing.
        """
        if self.viewing:
            raise _DetachedError
        answer = "s"
        if asking.at_terminal() and not interrupts.told_to_end and not self.stopping:
            with self.live.paused():
                answer = asking.choice(
                    f"\nLeave run {self.run_id}",
                    {"d": "detach, it goes on", "s": "save and stop it", "g": "go on watching"},
                    at_end="g",
                )
        if answer == "d":
            raise _DetachedError
        if answer == "g":
            interrupts.forget()
            return
        if self.stopping:
            raise KeyboardInterrupt
        interrupts.forget()
        try:
            self.runs.stop(self.run_id)
        except TransitionError:
            return  # it has ended meanwhile, which is told next
        except UserError:
            raise
        except RecoError as error:
            self.live.say(f"! it could not be asked to stop; Ctrl-C tries again: {error.message}")
            return
        self.live.say("saving and stopping; Ctrl-C again leaves at once, and it stops by itself")
        self.stopping = True

    def _goes_on(self) -> str:
        if self.stopping:
            return f"run {self.run_id} saves and stops; `reco runs show {self.run_id}` says when it has"
        return (
            f"run {self.run_id} goes on; watch it with `reco runs logs {self.run_id} -f`, "
            f"stop it with `reco runs stop {self.run_id}`"
        )


def follow_to_the_end(runs: Runs, run: RunView, *, since: datetime | None = None, viewing: bool = False) -> None:
    """Follow a run or a sweep from what is known of it, tell what came of it, and leave with its exit code.

    Args:
        runs: Where it is asked for.
        run: As it was seen last.
        since: When what is followed began; when it was created, if not given.
        viewing: An interrupt ends the following, and never the run.

    Raises:
        RecoError: It failed.
        typer.Exit: It was stopped, or whoever followed it has left.
    """
    since = since or run.created
    board = LiveBoard(runs, since=since) if run.kind == "sweep" else None
    ended = Follower(runs, run.id, board or LiveRun(since=since), run.version, viewing=viewing).follow()
    if board is not None:
        with contextlib.suppress(RecoError):
            output.show(board.picture(ended))
    if ended.state is State.SUCCEEDED:
        show_results(cast("Outcome | None", ended.outcome))
        return
    if ended.state is State.CANCELLED:
        goes_on = f"reco {'sweep' if run.kind == 'sweep' else 'runs'} resume {run.id}"
        output.note(f"{run.kind} {run.id} was stopped; it goes on with: {goes_on}", style="yellow")
        raise typer.Exit(INTERRUPTED)
    raise failure_of(runs, ended)


def failure_of(runs: Runs, run: RunDetails) -> RecoError:
    """Why a run failed, as the error to end with; where the user cannot mend it, its last lines are printed, too."""
    outcome = run.outcome or {}
    if outcome.get("status") != "failed":  # of an attempt before, or none
        outcome = {"error": run.reason, "exit_code": 1}
    code = outcome.get("exit_code")
    if code != UserError.exit_code:
        for line in last_lines(runs, run.id):
            output.note(f"  {line}")
    kind = UserError if code == UserError.exit_code else RecoError
    hint = outcome.get("hint") or f"`reco runs events {run.id}` and `reco runs logs {run.id}` say more."
    return kind(f"run {run.id} failed: {outcome['error']}", hint=str(hint))


def last_lines(runs: Runs, run_id: str, *, lines: int = _LAST_LINES) -> list[str]:
    """The end of the log of a run's last attempt; empty where it cannot be had."""
    kept: deque[str] = deque(maxlen=lines)
    offset = 0
    try:
        while True:
            chunk = runs.log(run_id, offset=offset)
            if not chunk.text:
                return list(kept)
            kept.extend(line for line in chunk.text.splitlines() if line.strip())
            offset = chunk.next_offset
    except RecoError:
        return list(kept)  # why it failed is told all the same


def in_words(event: EventView) -> str:
    """What happened, when, and what the run is since, in a line."""
    state = event.data.get("state")
    what = state if isinstance(state, str) and event.kind != "condition" else event.kind
    return f"{event.at.astimezone():%H:%M:%S}  {what}: {event.words}"


def style_of(event: EventView) -> str:
    """Bright where a person should look."""
    return "yellow" if event.kind in ("lost", "failed", "condition") else "dim"
