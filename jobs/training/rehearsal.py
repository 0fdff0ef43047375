"""A run's first steps and one probe, timed and thrown away: does it work here, and what will it cost?"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from itertools import islice

import torch

from jobs.loading.process import LoaderProcess
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec
from jobs.training.feed import DeviceBatch
from jobs.training.heartbeat import Heartbeat
from jobs.training.loop import Trainer
from jobs.training.numerics import set_numerics
from jobs.training.plan import decoding_threads, open_data
from jobs.training.ranks import Ranks
from jobs.training.recorder import NoRecorder, Recorder
from jobs.training.timing import Window
from jobs.training.watchdog import Watchdog

_FIRST = 2
_MOST = 200


def rehearse(
    spec: RunSpec, folder: RunFolder, ranks: Ranks, _recorder: Recorder | None = None, *, seconds: float = 0.0
) -> None:
    """Take at least two steps, judge the encoder, and write what was measured as the folder's result.

    The result has `step_s`, `log_s` (of a logging step, beside the step), `probe_s` and `inside_s` (of everything), in
    seconds, `host_bytes` and `gpu_bytes` (most memory of this worker and its loader), `state_bytes` (of a checkpoint),
    `steps_per_epoch`, and the metrics of the probe under their own names.

    Args:
        spec: The run, which is not begun.
        folder: Of this rehearsal alone.
        ranks: This process among those that train together; every one calls this.
        seconds: About how long to take steps, to know their time better.

    Raises:
        RecoError: For data and storage; each says what to do.
    """
    set_numerics(ranks.device, precision=spec.train.precision)
    with (
        Watchdog(folder, rank=ranks.rank, limit_s=60 * spec.scale.stall_minutes) as watchdog,
        LoaderProcess(threads=decoding_threads(spec), cache=spec.scale.cache) as loader,
    ):
        data = open_data(spec, loader)
        trainer = Trainer(
            spec,
            data,
            folder=folder,
            ranks=ranks,
            heartbeat=Heartbeat(folder),  # not started: nobody watches
            watchdog=watchdog,
            recorder=NoRecorder(),
            saver=None,
        )
        with trainer.open_feed() as feed:
            batches = trainer.timed(feed)
            trainer.window = Window(ranks.device, trainer.stream.counters)
            _take(trainer, batches, 1)  # opens connections, allocates, and may compile
            began = time.perf_counter()
            first = _take(trainer, batches, _FIRST)
            more = ranks.from_first(min(int(seconds / first), _MOST))
            step_s = _take(trainer, batches, more) if more > _FIRST else first
        log_s = _timed_log(trainer)
        start = time.perf_counter()
        metrics = trainer.evaluation.while_training(trainer.model)
        probe_s = time.perf_counter() - start
        on_gpu = ranks.device.type == "cuda"
        if ranks.is_first:
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            state = trainer.learner.state()
            folder.write_result(
                {
                    "step_s": step_s,
                    "log_s": log_s,
                    "probe_s": probe_s,
                    "inside_s": time.perf_counter() - began,
                    "host_bytes": float(own + trainer.plan.loader_bytes),
                    "gpu_bytes": float(torch.cuda.max_memory_allocated(ranks.device)) if on_gpu else 0.0,
                    "state_bytes": float(_bytes(state)),
                    "steps_per_epoch": float(trainer.plan.steps_per_epoch),
                    **metrics,
                }
            )


def _take(trainer: Trainer, batches: Iterator[DeviceBatch], steps: int) -> float:
    """Take steps; seconds of one, in the mean."""
    start, taken = time.perf_counter(), 0
    for ready in islice(batches, steps):
        terms = trainer.train_step(ready)
        trainer.window.add(terms)
        taken += 1
    if taken:
        float(trainer.last_output.terms["loss"])  # waits for the device
    return (time.perf_counter() - start) / max(taken, 1)


def _timed_log(trainer: Trainer) -> float:
    """Seconds that a logging step takes beside the step itself."""
    metrics, _ = trainer.window.close(trainer.ranks, trainer.stream.counters, {})
    start = time.perf_counter()
    trainer.reporter.health(trainer.learner, trainer.last_output, trainer.step, metrics)
    return time.perf_counter() - start


def _bytes(state: object) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_bytes, state))
    return 0
