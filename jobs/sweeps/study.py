"""The mind of a sweep: which configuration comes next, and whether one that was judged goes on.

Everything it decides is in the ledger before it is acted upon. It can therefore be made anew from the ledger alone:
search and scheduler are asked and told the same in the same order, and stand where they stood.
"""

from __future__ import annotations

import logging

from jobs.spec import ScaleSpec, Sweep
from jobs.sweeps.judge import Judge
from jobs.sweeps.ledger import Event, Ledger, Trial, apply
from jobs.sweeps.search import open_search

_log = logging.getLogger(__name__)


class Study:
    """A sweep's trials.

    Args:
        sweep: What is searched.
        ledger: Of the sweep; what is in it has happened.
        name: Of no other sweep.
    """

    def __init__(self, sweep: Sweep, ledger: Ledger, *, name: str) -> None:
        self._sweep, self._ledger = sweep, ledger
        self._search = open_search(sweep, study=name)
        self._judge = Judge(sweep)
        self._trials: dict[int, Trial] = {}
        for event in ledger.events():
            if event["event"] == "trial" and self._search.ask(event["trial"]) != event["values"]:
                self._search.replace(event["trial"], event["values"])
            self._take(event)
        for trial in self.trials:
            if trial.status == "running" and trial.stopping:  # it was cut off between the decision and the end
                self.end(trial.number)
        self._to_do = [trial.number for trial in self.trials if trial.status == "running"]

    @property
    def trials(self) -> list[Trial]:
        """What became of each configuration so far."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def seeds(self) -> int:
        """Runs of a trial that comes to the end."""
        return self._sweep.spec.seeds

    @property
    def scale(self) -> ScaleSpec:
        """What one of them runs on."""
        return self._sweep.spec.scale or self._sweep.base.scale

    def over_budget(self, wall_s: float, gpu_s: float) -> str | None:
        """Which part of the budget is used up, in words; None where none is."""
        budget = self._sweep.spec.budget
        if budget.seconds is not None and wall_s >= budget.seconds:
            return f"budget.wall_time {budget.wall_time} is used up"
        if budget.gpu_hours is not None and gpu_s >= 3600 * budget.gpu_hours:
            return f"budget.gpu_hours {budget.gpu_hours:g} is used up"
        return None

    @property
    def left(self) -> int:
        """Trials that are still to be handed out, as far as is known."""
        return len(self._to_do) + self._sweep.trials - len(self._trials)

    def next(self) -> Trial | None:
        """The next trial to carry out: first those that were cut off, then new ones; None when there is no more."""
        if self._to_do:
            return self._trials[self._to_do.pop(0)]
        number = len(self._trials)
        if number >= self._sweep.trials:
            return None
        values = self._search.ask(number)
        if values is None:
            return None
        return self._write({"event": "trial", "trial": number, "values": values})

    def report(self, number: int, epoch: int, objective: float) -> bool:
        """A trial was judged; whether it goes on. One that was judged at that epoch before is not judged again."""
        trial = self._trials[number]
        if trial.status != "running" or trial.stopping:
            return False
        if epoch in trial.points:
            return True
        goes_on = self._judge.goes_on(number, epoch, objective)
        self._write({"event": "report", "trial": number, "epoch": epoch, "objective": objective, "goes_on": goes_on})
        return goes_on

    def end(self, number: int, *, seeds: list[float] | None = None, failure: str | None = None) -> Trial:
        """A trial is over.

        Args:
            number: Which.
            seeds: The objective of each seed, where it came to the end.
            failure: Why it failed, where it did; else it was told to stop early.
        """
        trial = self._trials[number]
        if failure is not None:
            return self._write(
                {"event": "end", "trial": number, "status": "failed", "objective": None, "reason": failure}
            )
        if seeds:
            mean, last = sum(seeds) / len(seeds), self._sweep.epochs
            ended: Event = {"event": "end", "trial": number, "status": "finished", "objective": mean}
            return self._write({**ended, "epoch": last, "seeds": seeds})
        return self._write({"event": "end", "trial": number, "status": "stopped early", "objective": trial.objective})

    def _write(self, event: Event) -> Trial:
        return self._take(self._ledger.append(event), decided=True)

    def _take(self, event: Event, *, decided: bool = False) -> Trial:
        trial = apply(event, self._trials)
        if event["event"] == "report" and not decided:
            objective = event["objective"]
            assert objective is not None
            if self._judge.goes_on(trial.number, event["epoch"], objective) != event["goes_on"]:
                _log.warning("trial %d at epoch %d: the scheduler would decide differently now", *_place(event))
        elif event["event"] == "end":
            self._search.tell(trial.number, trial.objective)
        return trial


def _place(event: Event) -> tuple[int, int]:
    return event["trial"], event["epoch"]
