"""The folder of one sweep, on disk or in S3: its specs, its ledger, its trials' runs, how it ended."""

from __future__ import annotations

import json
from typing import TypedDict

from jobs.errors import UserError
from jobs.job_folder import JobFolder
from jobs.run_folder import RunFolder
from jobs.spec import Sweep, SweepSpec, parse_sweep, to_yaml
from jobs.sweeps.ledger import Ledger

_MAY_CHANGE = {"name", "base", "trials", "concurrency", "scale", "budget"}


class Spent(TypedDict):
    """What a sweep has used so far, over all its attempts: seconds, and GPU-seconds of its trials."""

    wall_s: float
    gpu_s: float


class SweepFolder(JobFolder):
    """Names and reads what a sweep keeps.

    Args:
        url: Folder or S3 prefix that holds runs and sweeps.
        sweep_id: The sweep.
        patience_s: As `open_storage` has it.

    Raises:
        UserError: If the id cannot be the name of a folder.
    """

    kind = "sweep"

    def __init__(self, url: str, sweep_id: str, *, patience_s: float | None = None) -> None:
        super().__init__(url, sweep_id, patience_s=patience_s)
        self.sweep_id = sweep_id
        self.run(9999, 99)  # an id that leaves no room for those of its runs is refused now

    def run_id(self, trial: int, seed: int = 0) -> str:
        """The id of a trial's run; of each of its seeds, the first being the one that is judged at rungs."""
        return f"{self.sweep_id}-t{trial:03d}" + (f"-s{seed}" if seed else "")

    def run(self, trial: int, seed: int = 0) -> RunFolder:
        """The folder of a trial's run."""
        return RunFolder(f"{self.url}/trials", self.run_id(trial, seed))

    def full_run(self) -> RunFolder:
        """The folder of the run that trains the best configuration in full; beside the sweep, as any run."""
        return RunFolder(self.parent, f"{self.sweep_id}-full")

    def rehearsal(self) -> RunFolder:
        """Where the base is rehearsed."""
        return RunFolder(self.url, "rehearsal")

    def claim(self, sweep: Sweep) -> None:
        """Store a new sweep, or check that one that exists asks the same.

        More trials, more budget and other resources may be given to one that exists.

        Raises:
            UserError: It exists with another space, objective or base.
        """
        if self.storage.exists("sweep.yaml"):
            before = self.sweep()
            changed = [name for name in SweepSpec.model_fields if name not in _MAY_CHANGE]
            changed = [name for name in changed if getattr(before.spec, name) != getattr(sweep.spec, name)]
            if before.epochs != sweep.epochs:
                changed.append("budget.epochs")
            if before.base.hash != sweep.base.hash:
                changed.append("base")
            if changed and any(self.storage.list("ledger/")):
                raise UserError(
                    f"sweep {self.sweep_id} exists with another {', '.join(changed)}.",
                    hint="Go on with what it was started with (`reco sweep resume`), or start one under a new --id.",
                )
        self.storage.write("base.yaml", to_yaml(sweep.base).encode())
        spec = sweep.spec.model_copy(update={"base": "base.yaml"})
        self.storage.write("sweep.yaml", to_yaml(spec).encode())

    def sweep(self) -> Sweep:
        """What the sweep is."""
        base = self.storage.read("base.yaml").decode()
        return parse_sweep(self.storage.read("sweep.yaml").decode(), base, source=f"{self.url}/sweep.yaml")

    def ledger(self) -> Ledger:
        """What happened so far, to be read."""
        return Ledger(self.storage)

    def write_spent(self, spent: Spent) -> None:
        """Keep what was used so far."""
        self.storage.write("spent.json", json.dumps(spent).encode())

    def spent(self) -> Spent:
        """What was used so far."""
        found: Spent | None = self._json("spent.json")
        return found or {"wall_s": 0.0, "gpu_s": 0.0}
