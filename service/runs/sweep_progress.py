"""How far a sweep is, as a run would say it: from its ledger, which is read on from where it was read to."""

from __future__ import annotations

from jobs.run_folder import Progress
from jobs.spec import Sweep
from jobs.storage import NotFoundError
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import ranked, trials_of

SEARCHING = "searching"
"""The phase while there are trials to come."""
IN_FULL = "training the best"
"""The phase while the best configuration trains in full: steps are those of that run then."""


class SweepProgress:
    """One attempt at a sweep; another may have been given more trials.

    Args:
        folder: The sweep's.

    Attributes:
        ended: Trials that had ended at the last look.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.ended = 0
        self._folder = folder
        self._ledger = folder.ledger()
        self._sweep: Sweep | None = None

    def read(self) -> Progress | None:
        """How far it is: a step is a trial that has ended. None before the job has said what the sweep is."""
        try:
            sweep = self._sweep = self._sweep or self._folder.sweep()
        except NotFoundError:
            return None
        trials = trials_of(self._ledger.events())
        self.ended = sum(trial.ended is not None for trial in trials)
        progress = Progress(phase=SEARCHING, step=self.ended, total_steps=sweep.trials)
        objectives = (trial.objective for trial in ranked(trials, mode=sweep.spec.objective.mode))
        if (best := next((each for each in objectives if each is not None), None)) is not None:
            progress["metrics"] = {sweep.metric: best}
        if self.ended < sweep.trials:
            return progress
        full = self._folder.full_run().progress()
        return progress if full is None else {**full, "phase": IN_FULL}
