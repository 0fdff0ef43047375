"""The training loop: pictures to views to a step of the method, with checkpoints, probes and health on the way."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jobs.errors import RecoError
from jobs.reco import ReCo, StepOutput, StepViews
from jobs.reco.schedules import learning_rate
from jobs.run_folder import Progress, Record, RunFolder
from jobs.spec import RunSpec
from jobs.training import health
from jobs.training.checkpoint import Checkpoints
from jobs.training.evaluation import Evaluation
from jobs.training.feed import DeviceBatch, Feed, slots
from jobs.training.fence import Fence
from jobs.training.heartbeat import Heartbeat
from jobs.training.pace import Pace
from jobs.training.plan import Data, Plan, make_plan, method_config, train_detail
from jobs.training.quarantine import Quarantine
from jobs.training.ranks import Ranks
from jobs.training.recorder import Recorder
from jobs.training.timing import PHASES, Phase, Window
from jobs.training.watchdog import Watchdog
from jobs.views import Views

_log = logging.getLogger(__name__)


class DivergedError(RecoError):
    """The loss is no longer a number."""


class Trainer:
    """One rank's part of a run, from its last checkpoint to its last step.

    Args:
        spec: What to train.
        data: The opened data sets.
        folder: Where the run keeps what it makes.
        ranks: This process among those that train together.
        heartbeat: The way to and from whoever watches; used by the first rank only.
        watchdog: Told how far this rank is.
        recorder: Where metrics go besides the run's folder; used by the first rank only.
        fence: This attempt's right to write; the first rank's.
    """

    # What is trained, on what
    spec: RunSpec
    plan: Plan
    data: Data
    views: Views
    # What changes while training
    model: ReCo
    wrapped: nn.Module
    optimizer: torch.optim.SGD
    step: int
    # Where it runs and what it tells
    ranks: Ranks
    folder: RunFolder
    checkpoints: Checkpoints
    heartbeat: Heartbeat
    watchdog: Watchdog
    recorder: Recorder
    fence: Fence | None
    window: Window

    def __init__(
        self,
        spec: RunSpec,
        data: Data,
        *,
        folder: RunFolder,
        ranks: Ranks,
        heartbeat: Heartbeat,
        watchdog: Watchdog,
        recorder: Recorder,
        fence: Fence | None,
    ) -> None:
        self.spec, self.data, self.ranks = spec, data, ranks
        self.plan = make_plan(spec, data.train)
        self.views = Views(spec.views, image_size=spec.data.image_size, seed=spec.train.seed)
        model = ReCo(method_config(spec), rank=ranks.rank, world_size=ranks.world_size)
        self.model = model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if spec.train.compile:
            for branch in (self.model.query_encoder, self.model.key_encoder):
                branch.backbone.compile()
        self.wrapped = self.model
        if ranks.world_size > 1:
            # Statistics are averaged where they are used, never broadcast: each rank's groups have their own.
            self.wrapped = DistributedDataParallel(self.model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.SGD(
            self.model.query_encoder.parameters(),
            lr=spec.optimizer.lr,
            momentum=spec.optimizer.momentum,
            weight_decay=spec.optimizer.weight_decay,
            fused=True,
        )
        self.folder, self.recorder, self.fence = folder, recorder, fence
        self.heartbeat, self.watchdog = heartbeat, watchdog
        self.checkpoints = Checkpoints(folder.storage, keep=spec.checkpoint.keep, fence=fence)
        self.quarantine = Quarantine(folder, rank=ranks.rank, samples=len(data.train), allowed=spec.data.bad_pictures)
        self.evaluation = Evaluation(spec, data, ranks=ranks, progress=lambda: watchdog.enter("probing", self.step))
        self.step = 0
        self.resumed_from = 0
        self.records: list[Record] = []
        self.health = "not measured yet"

    def train(self) -> bool:
        """Train to the last step.

        Returns:
            True when the run is complete, False when it saved and stopped because it was asked to.

        Raises:
            DivergedError: If the loss becomes NaN or infinite.
            RecoError: For data and storage; each says what to do.
        """
        self.restore()
        self.publish("training")
        self.pace = Pace(self.spec.checkpoint, step=self.step)
        with self.open_feed() as feed:
            self.window = Window(self.ranks.device, self.stream.counters)
            for ready in self.timed(feed):
                self.quarantine.add(ready.batch.replaced)
                terms = self.train_step(ready)
                self.window.add(terms)
                if self.is_logging_step() and self.log():
                    return False
        return True

    def train_step(self, ready: DeviceBatch) -> dict[str, Tensor]:
        """One step of the method; returns its terms as scalars on the device."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        passed = self.passed
        passed("wait")
        views = self.make_views(ready)
        passed("views")
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.spec.train.precision == "bf16"):
            output: StepOutput = self.wrapped(views, step=self.step)
        passed("forward")
        self.optimizer.zero_grad()
        output.loss.backward()  # type: ignore[no-untyped-call]
        passed("backward")
        self.model.enqueue(output)
        self.optimizer.step()
        self.model.update_key_encoder()
        self.step += 1
        passed("update")
        self.last_output = output
        return output.terms

    def passed(self, phase: Phase) -> None:
        """A phase of a step has ended, and the next one begins."""
        self.window.phases.passed(phase)
        self.watchdog.enter(PHASES[(PHASES.index(phase) + 1) % len(PHASES)], self.step)

    @torch.no_grad()
    def make_views(self, ready: DeviceBatch) -> StepViews:
        """The three views of a batch on the device; the weak one only where it is used."""
        epoch, ids = ready.batch.epoch, ready.batch.sample_ids
        query, key = self.views.strong(ready.pictures, epoch=epoch, sample_ids=ids, views=(0, 1))
        weak = None
        if self.spec.method.global_relation.weight > 0:
            weak = self.views.weak(ready.pictures, epoch=epoch, sample_ids=ids, view=2)
        return StepViews(query, key, weak)

    def learning_rate(self) -> float:
        """The learning rate of the step to come."""
        return learning_rate(
            self.step,
            base=self.spec.optimizer.lr,
            warmup_steps=self.plan.warmup_steps,
            total_steps=self.plan.total_steps,
        )

    def is_logging_step(self) -> bool:
        """Whether ranks meet after this step: to log, and so also to probe, to save or to stop."""
        return self.step % self.spec.train.log_every == 0 or self.is_probe_step() or self.step == self.plan.total_steps

    def is_probe_step(self) -> bool:
        """Whether the encoder is judged after this step."""
        return (
            self.data.probe_train is not None
            and self.step % (self.plan.steps_per_epoch * self.spec.train.probe_every) == 0
        )

    def log(self) -> bool:
        """Average the window over all ranks, probe, record and save as due; True when the run was asked to stop.

        Ranks agree on saving and stopping by the same reduction that averages the metrics.
        """
        self.watchdog.enter("logging", self.step)
        self.heartbeat.check_fence()
        epoch = (self.step - 1) // self.plan.steps_per_epoch
        metrics, agreed = self.window.close(
            self.ranks,
            self.stream.counters,
            {
                "save": float(self.ranks.is_first and self.pace.due(self.step)),
                "stop": float(self.heartbeat.stop_requested),
                "bad": float(self.quarantine.met(epoch)),
            },
        )
        self.quarantine.check(round(agreed["bad"]), epoch)
        save, stop = agreed["save"], agreed["stop"]
        if not math.isfinite(metrics["train/loss"]):
            self.give_up(metrics)
        metrics["train/learning_rate"] = self.learning_rate()
        metrics["time/pictures_per_s"] = self.spec.train.global_batch_size / metrics["time/step_s"]
        metrics |= self.measure_health(metrics)
        if self.is_probe_step():
            self.publish("probing", metrics)
            metrics |= self.evaluation.while_training(self.model)
        if self.ranks.is_first:
            pictures = self.step * self.spec.train.global_batch_size
            self.records.append({"step": self.step, "pictures": pictures, "metrics": metrics})
            self.recorder.log(self.step, pictures, metrics)
        self.publish("training", metrics)
        if save > 0 or stop > 0 or self.step == self.plan.total_steps:
            self.save()
        self.window = Window(self.ranks.device, self.stream.counters)
        return stop > 0 and self.step < self.plan.total_steps

    def give_up(self, metrics: dict[str, float]) -> NoReturn:
        """End a run whose loss is no number, on all ranks.

        Raises:
            DivergedError: With the step at which it began, the terms it began in, and what was saved before.
        """
        step = self.ranks.least(self.step - self.window.steps + self.window.finite_steps + 1)
        terms = [name for name in ("contrast", "global_relation", "local_relation") if f"train/{name}" in metrics]
        broken = [name for name in terms if not math.isfinite(metrics[f"train/{name}"])]
        kept = f"the last good checkpoint is that of step {self.pace.last_saved}"
        raise DivergedError(
            f"the loss became {metrics['train/loss']} at step {step} ({', '.join(broken)}); "
            f"{kept if self.pace.last_saved else 'no checkpoint was written before'}.",
            hint="Lower optimizer.lr or raise method.temperature, and start a new run.",
        )

    def measure_health(self, metrics: dict[str, float]) -> dict[str, float]:
        """Label-free health from this step's keys and the filled part of the queue, on the first rank."""
        if not self.ranks.is_first:
            return {}
        filled = self.model.strong_queue[: self.step * self.spec.train.global_batch_size]
        keys = self.last_output.keys[:1024]
        gradients = [p.grad for p in self.model.query_encoder.parameters() if p.grad is not None]
        positive, negative = metrics.pop("train/similarity_positive"), metrics.pop("train/similarity_negative")
        measured = {
            "health/alignment": health.alignment(positive),
            "health/uniformity": health.uniformity(keys),
            "health/feature_std": health.feature_std(keys),
            "health/positive_negative_gap": positive - negative,
            "health/rank_me": health.rank_me(filled),
            "health/gradient_norm": float(nn.utils.get_total_norm(gradients)),
        }
        self.health = health.verdict(measured, data_wait=metrics["time/data_wait"])
        return measured

    def save(self) -> None:
        """Write a checkpoint and the records that led to it; all ranks take part."""
        self.watchdog.enter("saving", self.step)
        with self.pace.saving(self.step):
            self.ranks.average_batch_statistics(self.model)
            self.quarantine.write()
            if self.fence is not None:
                self.fence.check()
            if self.ranks.is_first:
                self.folder.write_records(self.records, step=self.step)
                self.records = []
                state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
                self.checkpoints.save(
                    state, step=self.step, spec_hash=self.spec.hash, dataset_hash=self.data.train.hash
                )

    def restore(self) -> None:
        """Take up the newest whole checkpoint, if there is one: the one that the first rank finds, on all ranks."""
        found = None
        if self.ranks.is_first:
            found = self.checkpoints.load_newest(spec_hash=self.spec.hash, dataset_hash=self.data.train.hash)
        step = self.ranks.from_first(found[0].step if found else 0)
        if step == 0:
            return
        state = found[1] if found else self.checkpoints.load(step)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = self.resumed_from = step
        _log.info("rank %d continues at step %d", self.ranks.rank, self.step)

    def open_feed(self) -> Feed:
        """The batches of this rank's lanes from the current step on."""
        self.stream = self.data.loader.stream(
            self.data.train,
            self.plan.order,
            lanes=self.ranks.share(self.spec.lanes),
            start=self.step,
            stop=self.plan.total_steps,
            detail=train_detail(self.spec),
            replace=True,
            slots=slots(self.ranks.device),
        )
        return Feed(self.stream, self.ranks.device)

    def timed(self, feed: Feed) -> Iterator[DeviceBatch]:
        """The feed's batches; the time spent waiting for each goes to the window."""
        batches = iter(feed)
        while True:
            start = time.perf_counter()
            ready = next(batches, None)
            if ready is None:
                return
            self.window.waited += time.perf_counter() - start
            yield ready

    def publish(self, phase: str, metrics: dict[str, float] | None = None) -> None:
        """Tell whoever watches how far the run is."""
        if not self.ranks.is_first:
            return
        metrics = metrics or {}
        speed = metrics.get("time/pictures_per_s", 0.0)
        remaining = (self.plan.total_steps - self.step) * self.spec.train.global_batch_size
        progress: Progress = {
            "phase": phase,
            "step": self.step,
            "total_steps": self.plan.total_steps,
            "epoch": self.step / self.plan.steps_per_epoch,
            "epochs": self.spec.train.epochs,
            "metrics": metrics,
            "pictures_per_s": speed,
            "data_wait": metrics.get("time/data_wait", 0.0),
            "memory_gb": memory_gb(self.ranks.device),
            "health": self.health,
            "resumed_from": self.resumed_from,
        }
        if speed > 0:
            progress["eta_s"] = remaining / speed
        self.heartbeat.publish(progress)


def memory_gb(device: torch.device) -> float:
    """Peak memory of this rank in 10⁹ bytes: of the GPU where it computes on one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
