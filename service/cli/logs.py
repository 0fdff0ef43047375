"""`reco runs logs` and `events`: what a run prints, and what happens to it, as it happens."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import RecoError, UserError
from service.cli import connect, output
from service.cli.options import AsJson, MaybeRun
from service.runs.states import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from service.contract.interface import Runs
    from service.contract.messages import EventView, LogChunk, RunDetails

    Told = TypeVar("Told")

POLL_S = 1.0
PATIENCE_S = 10.0
"""How long the end of a log is waited for once its job has ended: the leader copies it within seconds."""

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")]


def logs(
    run: MaybeRun = None,
    follow: Follow = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Of this attempt; the last one if not given.")
    ] = None,
) -> None:
    """Print what a run has printed; with `-f` wait for it to begin, and go on across its attempts until it has ended.

    No line is lost or printed twice, however often the connection breaks. With `-f` the exit code is the run's: 0 where
    it succeeded, 130 where it was stopped, else 1.

    Examples:
    - `reco runs logs photos-20261123-2210 -f`

    - `reco runs logs photos-20261123-2210 --attempt 2`
    """
    with connect.service() as service:
        run_id = connect.run_or_latest(service.runs, run)
        reader = LogReader(service.runs, run_id, attempt)
        if not follow:
            while reader.read():
                pass
            if reader.attempt is None:
                output.note(f"run {run_id} has printed nothing yet: it is {service.runs.show(run_id).state}")
            return
        ended = reader.follow(only=attempt)
        if attempt is None:
            raise typer.Exit(exit_code_of(ended))


class LogReader:
    """Prints the log of a run, each line once.

    Args:
        runs: Where it is asked for.
        run_id: The run.
        attempt: The first one to print; None for the last there is.

    Attributes:
        attempt: The one that is printed; None before there is any.
    """

    def __init__(self, runs: Runs, run_id: str, attempt: int | None) -> None:
        self._runs, self._run_id = runs, run_id
        self.attempt = attempt
        self._offset = 0
        self._complete = False
        self._silent = False
        self._keeper = connect.Keeper()

    def read(self) -> bool:
        """Print the next part; returns whether there was any."""
        chunk = self._runs.log(self._run_id, attempt=self.attempt, offset=self._offset)
        return self._print(chunk)

    def follow(self, *, only: int | None) -> RunDetails:
        """Print until the run has ended, and all it has printed is there.

        Args:
            only: End with this attempt.

        Returns:
            The run when it had ended.
        """
        patient_until = math.inf
        while True:
            # Asked first: what has ended by then prints nothing more.
            run = self._patiently(lambda: self._runs.show(self._run_id))
            self._patiently(self._keeper.look)
            if self.attempt is None and run.attempts:
                self.attempt = run.attempts
            if self.attempt is None:  # it waits for its turn
                if run.state.is_final:
                    return run
                time.sleep(POLL_S)
                continue
            while self._print(self._patiently(self._next)):
                pass
            if not (run.state.is_final or run.attempts > self.attempt):
                time.sleep(POLL_S)
                continue
            patient_until = min(patient_until, time.monotonic() + PATIENCE_S)
            if not self._complete and time.monotonic() < patient_until:
                time.sleep(POLL_S)
            elif self.attempt < run.attempts and only is None:
                self.attempt, self._offset, patient_until = self.attempt + 1, 0, math.inf
                output.note(f"attempt {self.attempt}")
            elif run.state.is_final or only is not None:
                return run

    def _next(self) -> LogChunk:
        return self._runs.log(self._run_id, attempt=self.attempt, offset=self._offset)

    def _print(self, chunk: LogChunk) -> bool:
        self.attempt = chunk.attempt or self.attempt
        self._complete = chunk.complete
        sys.stdout.write(chunk.text)  # as it is: it may be large, and is no text of ours
        sys.stdout.flush()
        self._offset = chunk.next_offset
        return bool(chunk.text)

    def _patiently(self, ask: Callable[[], Told]) -> Told:
        """Ask until there is an answer: a connection that breaks says nothing of the run."""
        while True:
            try:
                answer = ask()
            except UserError:
                raise
            except RecoError as error:
                if not self._silent:
                    output.note(f"! no answer, which says nothing of the run: {error.message}")
                self._silent = True
                time.sleep(POLL_S)
            else:
                self._silent = False
                return answer


def events(run: MaybeRun = None, follow: Follow = False, as_json: AsJson = False) -> None:
    """Print what happened to a run: when, what it is since, and why.

    Examples:
    - `reco runs events photos-20261123-2210`

    - `reco runs events photos-20261123-2210 -f`
    """
    from service.cli.following import in_words, style_of

    with connect.service() as service:
        run_id = connect.run_or_latest(service.runs, run)
        after, keeper = 0, connect.Keeper()
        while True:
            ended = service.runs.show(run_id).state.is_final  # asked first: then the events are all there will be
            found = _all_events(service.runs, run_id, after)
            if as_json:
                output.emit([event.model_dump(mode="json") for event in found])
                return
            for event in found:
                output.say(
                    f"{event.number:>4}  {event.at.astimezone():%Y-%m-%d} {in_words(event)}", style=style_of(event)
                )
            after = found[-1].number if found else after
            if ended or not follow:
                return
            keeper.look()
            time.sleep(POLL_S)


def exit_code_of(run: RunDetails) -> int:
    """The exit code that a run which has ended stands for."""
    return {State.SUCCEEDED: 0, State.CANCELLED: 130}.get(run.state, 1)


def _all_events(runs: Runs, run_id: str, after: int) -> list[EventView]:
    found: list[EventView] = []
    while part := runs.events(run_id, after=found[-1].number if found else after):
        found += part
    return found
