"""One attempt of a run on Ray Train: a fixed number of workers, placed once and never restarted by Ray."""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray.train
import ray.train.torch
import torch

from jobs.checkpoints.fence import FencedError
from jobs.errors import RecoError
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec
from jobs.storage import UnreachableError
from jobs.tracking.runs import MetricSender, TrackedRun
from jobs.training.ranks import Ranks, pick_device
from jobs.training.recorder import Recorder
from jobs.training.run import run

_log = logging.getLogger("reco.attempt")

Work = Callable[[RunSpec, RunFolder, Ranks, Recorder | None], object]
"""What every worker does; it can be sent to another process, as a module's function or a partial of one."""


class Attempt:
    """Workers under way.

    Ray answers Ctrl-C by abandoning its workers, but only in the main thread: so it is given another one.

    Args:
        spec: What to train.
        folder: The run's folder.
        tracked: The run in MLflow; None where it is not tracked.
        workers: How many; they are placed as soon as the cluster has the resources.
        work: What they do; a run by default.

    Attributes:
        workers: As given.
        error: What ended it, once it is over; None where the workers returned.
    """

    def __init__(
        self, spec: RunSpec, folder: RunFolder, tracked: TrackedRun | None, *, workers: int, work: Work = run
    ) -> None:
        self.workers = workers
        self.error: BaseException | None = None
        self._arguments = {"spec": spec.model_dump_json(), "url": folder.url, "tracked": tracked, "work": work}
        self._resources = {"CPU": spec.scale.cpus_per_worker}
        if spec.scale.gpus_per_worker:
            self._resources["GPU"] = spec.scale.gpus_per_worker
        self._thread = threading.Thread(target=self._fit, name="ray-train")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, no longer than so many seconds; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def outside_the_run(self) -> bool:
        """Whether what ended it says nothing of the run: it could not be placed, or its storage did not answer."""
        if isinstance(self.error, ray.train.ControllerError):
            return "WorkerGroupStartup" in type(self.error.controller_failure).__name__
        return any(isinstance(cause, UnreachableError) for cause in _causes(self.error))

    @property
    def fenced(self) -> FencedError | None:
        """What its workers were told when a newer attempt took the run over, if one did."""
        return next((cause for cause in _causes(self.error) if isinstance(cause, FencedError)), None)

    @property
    def cause(self) -> str:
        """What ended it, in a line."""
        causes = [line for cause in _causes(self.error) for line in str(cause).splitlines()[-1:]]
        # A rank that failed by itself says more than those that lost their connection to it.
        own = [line for line in causes if "onnection" not in line]
        return (own or causes or ["unknown"])[0].strip()

    def _fit(self) -> None:
        # Ray is handed no checkpoint, since the run's folder is the truth; what it notes for itself dies with the
        # attempt. Not in the run's folder: pyarrow, which Ray writes with, makes folder marks that not every S3
        # server takes.
        with tempfile.TemporaryDirectory(prefix="reco-ray-", ignore_cleanup_errors=True) as notes:
            trainer = ray.train.torch.TorchTrainer(
                _worker,
                train_loop_config=self._arguments,
                scaling_config=ray.train.ScalingConfig(
                    num_workers=self.workers,
                    use_gpu="GPU" in self._resources,
                    resources_per_worker=self._resources,
                ),
                run_config=ray.train.RunConfig(
                    name="ray",
                    storage_path=notes,
                    failure_config=ray.train.FailureConfig(
                        max_failures=0, max_preemption_failures=0, controller_failure_limit=0
                    ),
                ),
            )
            try:
                trainer.fit()
            except BaseException as error:  # noqa: BLE001 (kept for the thread that waits)
                self.error = error


def _worker(config: dict[str, Any]) -> None:
    """One rank: what every worker of the cluster runs."""
    context = ray.train.get_context()
    _sign_lines(context.get_world_rank())
    spec = RunSpec.model_validate_json(config["spec"])
    url, run_id = config["url"].rsplit("/", 1)
    folder = RunFolder(url, run_id)
    torch.set_num_threads(spec.scale.cpus_per_worker)
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), pick_device(context.get_local_rank()))
    _log.info("rank %d of %d of run %s is on %s", ranks.rank, ranks.world_size, run_id, socket.gethostname())
    with contextlib.ExitStack() as stack:
        sender = None
        tracked: TrackedRun | None = config["tracked"]
        if ranks.is_first and tracked is not None:
            # Named by MLflow's id: a run of the same name on another server must not find this one's unsent records.
            spool = Path(tempfile.gettempdir()) / "reco" / f"{tracked.mlflow_run_id}.jsonl"
            tracked.refresh_high_water()  # an earlier attempt may have logged
            sender = MetricSender(tracked, spool=spool)
            stack.callback(sender.close, timeout=60.0)
        try:
            config["work"](spec, folder, ranks, sender)
        except UnreachableError:
            raise  # not the run's failure: the storage may come back
        except FencedError:
            # Nor is this: a newer attempt is at work, which logs these steps itself.
            stack.pop_all()
            if sender is not None:
                sender.close(timeout=0.0)
            raise
        except RecoError as error:
            folder.write_failure(error)
            raise


def _sign_lines(rank: int) -> None:
    """Have every line say whose it is: those of all ranks meet in the log of the run."""
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter(f"[rank {rank}] %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    # Ray's own console handler takes no format; its files stay.
    root.handlers = [*(each for each in root.handlers if not isinstance(each, logging.StreamHandler)), console]
    warnings.filterwarnings("ignore", category=FutureWarning)  # of PyTorch to this project, not to who reads the log


def _causes(error: BaseException | None) -> list[BaseException]:
    """What the workers failed with, by rank; the error itself where it is of no worker."""
    if isinstance(error, ray.train.WorkerGroupError):
        found: list[BaseException] = [each for _, each in sorted(error.worker_failures.items())]
    else:
        found = [] if error is None else [error]
    # Ray hands what user code raised in a wrapper that shows its traceback.
    return [getattr(each, "_base_exc", each) for each in found]
