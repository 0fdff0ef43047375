"""What the first rank tells of a run: to whoever watches, to the run's folder, to the recorder."""

from __future__ import annotations

import resource

import torch

from jobs.reco import StepOutput
from jobs.run_folder import Probe, Progress, Record
from jobs.spec import RunSpec
from jobs.training import health
from jobs.training.heartbeat import Heartbeat
from jobs.training.learner import Learner
from jobs.training.plan import Plan
from jobs.training.ranks import Ranks
from jobs.training.recorder import Recorder


class Reporter:
    """Puts a run into words and numbers.

    Args:
        spec: The run.
        plan: Its numbers.
        ranks: This process among those that train together.
        heartbeat: The way to whoever watches.
        recorder: Where metrics go besides the run's folder.

    Attributes:
        resumed_from: Step at which this attempt took the run up.
    """

    def __init__(self, spec: RunSpec, plan: Plan, *, ranks: Ranks, heartbeat: Heartbeat, recorder: Recorder) -> None:
        self._spec, self._plan, self._ranks = spec, plan, ranks
        self._heartbeat, self._recorder = heartbeat, recorder
        self._records: list[Record] = []
        self._health = "not measured yet"
        self._probes: list[Probe] = []
        self.resumed_from = 0

    def progress(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        """Tell whoever watches how far the run is."""
        if not self._ranks.is_first:
            return
        metrics = metrics or {}
        speed = metrics.get("time/pictures_per_s", 0.0)
        progress: Progress = {
            "phase": phase,
            "step": step,
            "total_steps": self._plan.total_steps,
            "epoch": step / self._plan.steps_per_epoch,
            "epochs": self._spec.train.epochs,
            "metrics": metrics,
            "pictures_per_s": speed,
            "data_wait": metrics.get("time/data_wait", 0.0),
            "memory_gb": memory_gb(self._ranks.device),
            "health": self._health,
            "resumed_from": self.resumed_from,
            "probes": list(self._probes),
        }
        if speed > 0:
            progress["eta_s"] = (self._plan.total_steps - step) * self._spec.train.global_batch_size / speed
        self._heartbeat.publish(progress)

    def probed(self, step: int, metrics: dict[str, float]) -> None:
        """Keep what the probes of this attempt measured, for those who watch more seldom than it is judged."""
        self._probes.append({"step": step, "metrics": metrics})

    def health(self, learner: Learner, output: StepOutput, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Label-free measures of the latest step, and the verdict that goes with the next progress.

        Args:
            learner: With the gradients of the step.
            output: Of the step.
            step: Completed.
            metrics: Of the window; what is only there for the measures is taken out.
        """
        seen = {name: metrics.pop(f"train/{name}") for name in health.ONLY_SEEN}
        if not self._ranks.is_first:
            return {}
        measured = health.measure(
            learner,
            keys=output.keys,
            step=step,
            batch=self._spec.train.global_batch_size,
            seen=seen | {"contrast": metrics["train/contrast"]},
        )
        self._health = health.verdict(metrics | measured)
        return measured

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Keep what a logging step measured, and hand it to the recorder."""
        if not self._ranks.is_first:
            return
        pictures = step * self._spec.train.global_batch_size
        self._records.append({"step": step, "pictures": pictures, "metrics": metrics})
        self._recorder.log(step, pictures, metrics)

    def take_records(self) -> list[Record]:
        """The records since the last call, for the checkpoint that follows them."""
        taken, self._records = self._records, []
        return taken


def memory_gb(device: torch.device) -> float:
    """Peak memory of this rank in 10⁹ bytes: of the GPU where it computes on one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
