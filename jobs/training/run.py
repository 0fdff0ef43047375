"""One rank's whole run: open the data, train, judge, write the result."""

from __future__ import annotations

import os
from contextlib import nullcontext

from jobs.checkpoints.fence import Fence
from jobs.checkpoints.saver import Saver
from jobs.job_folder import SUBMISSION_VARIABLE
from jobs.loading.process import LoaderProcess
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec
from jobs.training.heartbeat import Heartbeat
from jobs.training.loop import Trainer
from jobs.training.numerics import set_numerics
from jobs.training.plan import decoding_threads, open_data
from jobs.training.ranks import Ranks
from jobs.training.recorder import NoRecorder, Recorder
from jobs.training.watchdog import Watchdog


def run(
    spec: RunSpec, folder: RunFolder, ranks: Ranks, recorder: Recorder | None = None, *, as_trial: bool = False
) -> dict[str, float] | None:
    """Train from the last checkpoint to the end and judge the encoder; every rank calls it.

    Args:
        spec: What to train.
        folder: Where the run keeps what it makes; claimed by the caller.
        ranks: This process among those that train together.
        recorder: Where metrics go besides the run's folder.
        as_trial: The result is what the probes measured last, without baselines, linear probe and test set.

    Returns:
        The final results, or None when the run saved and stopped because it was asked to.
    """
    numerics = set_numerics(ranks.device, precision=spec.train.precision)
    fence = Fence.take(folder.storage, _about(folder, ranks) | numerics) if ranks.is_first else None
    heartbeat = Heartbeat(folder, fence=fence)
    with (
        Watchdog(folder, rank=ranks.rank, limit_s=60 * spec.scale.stall_minutes) as watchdog,
        LoaderProcess(threads=decoding_threads(spec), cache=spec.scale.cache) as loader,
        heartbeat if ranks.is_first else nullcontext(),
    ):
        data = open_data(spec, loader)
        saver = Saver(folder, keep=spec.checkpoint.keep, spec_hash=spec.hash, dataset_hash=data.train.hash, fence=fence)
        with saver if ranks.is_first else nullcontext():
            trainer = Trainer(
                spec,
                data,
                folder=folder,
                ranks=ranks,
                heartbeat=heartbeat,
                watchdog=watchdog,
                recorder=recorder or NoRecorder(),
                saver=saver if ranks.is_first else None,
            )
            complete = trainer.train()
        if not complete:
            trainer.reporter.progress("stopped", trainer.step)
            return None
        trainer.reporter.progress("finishing", trainer.step)
        results = trainer.last_probe() if as_trial else trainer.evaluation.at_the_end(trainer.model)
        if fence is not None:
            fence.check()
            folder.write_result(results)
        trainer.reporter.progress("done", trainer.step)
    return results


def _about(folder: RunFolder, ranks: Ranks) -> dict[str, str | int]:
    """What to note of an attempt besides what it computes with: workers, the service's name for it, what it forks."""
    about: dict[str, str | int] = {"workers": ranks.world_size}
    if submission := os.environ.get(SUBMISSION_VARIABLE):
        about["submission"] = submission
    if (origin := folder.origin()) is not None:
        about |= origin.lineage
    return about
