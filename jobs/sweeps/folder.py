"""The folder of one sweep, on disk or in S3: its specs, its ledger, its trials' runs, how it ended."""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict

from jobs.errors import UserError
from jobs.run_folder import RunFolder
from jobs.spec import Sweep, parse_sweep, to_yaml
from jobs.spec.sweep import SweepSpec
from jobs.storage import Storage, open_storage
from jobs.sweeps.ledger import Ledger

_MAY_CHANGE = {"name", "base", "trials", "concurrency", "scale", "budget"}


class Spent(TypedDict):
    """What a sweep has used so far, over all its attempts: seconds, and GPU-seconds of its trials."""

    wall_s: float
    gpu_s: float


class SweepOutcome(TypedDict, total=False):
    """How an attempt ended; `status` is finished, stopped or failed, `exit_code` that of the command."""

    status: Literal["finished", "stopped", "failed"]
    exit_code: int
    error: str
    hint: str
    reason: str
    tracking_url: str
    model: str


class SweepFolder:
    """Names and reads what a sweep keeps.

    Args:
        url: Folder or S3 prefix that holds runs and sweeps.
        sweep_id: The sweep.

    Raises:
        UserError: If the id cannot be the name of a folder.
    """

    def __init__(self, url: str, sweep_id: str) -> None:
        self.sweep_id = sweep_id
        self.url = RunFolder(url, sweep_id).url  # an id is what that takes
        self.storage: Storage = open_storage(self.url)

    @property
    def runs_url(self) -> str:
        """Where the runs of its trials are."""
        return f"{self.url}/trials"

    def run_id(self, trial: int, seed: int = 0) -> str:
        """The id of a trial's run; of each of its seeds, the first being the one that is judged at rungs."""
        return f"{self.sweep_id}-t{trial:03d}" + (f"-s{seed}" if seed else "")

    def run(self, trial: int, seed: int = 0) -> RunFolder:
        """The folder of a trial's run."""
        return RunFolder(self.runs_url, self.run_id(trial, seed))

    @property
    def full_run_id(self) -> str:
        """The id of the run that trains the best configuration in full."""
        return f"{self.sweep_id}-full"

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

    def begin_attempt(self) -> None:
        """Forget how an earlier attempt ended and whether somebody asked it to stop."""
        for key in ("outcome.json", "stop"):
            if self.storage.exists(key):
                self.storage.delete(key)

    def request_stop(self) -> None:
        """Ask the sweep to have its trials saved and to stop."""
        self.storage.write("stop", b"")

    def stop_requested(self) -> bool:
        """Whether somebody asked it to stop."""
        return self.storage.exists("stop")

    def write_spent(self, spent: Spent) -> None:
        """Keep what was used so far."""
        self.storage.write("spent.json", json.dumps(spent).encode())

    def spent(self) -> Spent:
        """What was used so far."""
        found: Spent | None = self._json("spent.json")
        return found or {"wall_s": 0.0, "gpu_s": 0.0}

    def write_outcome(self, outcome: SweepOutcome) -> None:
        """Say how this attempt ended."""
        self.storage.write("outcome.json", json.dumps(outcome, indent=1).encode())

    def outcome(self) -> SweepOutcome | None:
        """How the last attempt ended, or None while it has not."""
        outcome: SweepOutcome | None = self._json("outcome.json")
        return outcome

    def _json(self, key: str) -> Any:  # noqa: ANN401 - what it is depends on the key
        return json.loads(self.storage.read(key)) if self.storage.exists(key) else None
