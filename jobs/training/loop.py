"""The training loop: pictures to views to a step of the method, with checkpoints, probes and health on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from jobs.checkpoints.fork import load_encoders
from jobs.checkpoints.load import load, load_newest
from jobs.checkpoints.pace import Pace
from jobs.checkpoints.saver import Saver
from jobs.reco import ReCo, StepOutput
from jobs.reco.schedules import learning_rate
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec
from jobs.training.divergence import DivergedError, weights_are_numbers, what_broke
from jobs.training.evaluation import Evaluation
from jobs.training.feed import DeviceBatch, Feed, slots
from jobs.training.heartbeat import Heartbeat
from jobs.training.learner import Learner
from jobs.training.meeting import Meetings
from jobs.training.plan import Data, Plan, make_plan, method_config, train_detail
from jobs.training.quarantine import Quarantine
from jobs.training.ranks import Ranks
from jobs.training.recorder import Recorder
from jobs.training.reporter import Reporter
from jobs.training.timing import PHASES, Phase, Window
from jobs.training.watchdog import Watchdog
from jobs.views import Views

_log = logging.getLogger(__name__)


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
        saver: Makes checkpoints; the first rank's, None where nothing is to be kept.
    """

    # What is trained, on what
    spec: RunSpec
    plan: Plan
    data: Data
    # What changes while training
    learner: Learner
    model: ReCo
    step: int
    # Where it runs and what it tells
    ranks: Ranks
    folder: RunFolder
    saver: Saver | None
    heartbeat: Heartbeat
    watchdog: Watchdog
    reporter: Reporter
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
        saver: Saver | None,
    ) -> None:
        self.spec, self.data, self.ranks = spec, data, ranks
        self.plan = make_plan(spec, data.train, probes=data.probes)
        self.learner = Learner(
            method_config(spec),
            Views(spec.views, image_size=spec.data.image_size, seed=spec.train.seed),
            ranks=ranks,
            momentum=spec.optimizer.momentum,
            weight_decay=spec.optimizer.weight_decay,
            bf16=spec.train.precision == "bf16",
            compiled=spec.train.compile,
        )
        self.model = self.learner.model
        self.folder, self.saver = folder, saver
        self.heartbeat, self.watchdog = heartbeat, watchdog
        self.reporter = Reporter(spec, self.plan, ranks=ranks, heartbeat=heartbeat, recorder=recorder)
        self.quarantine = Quarantine(folder, rank=ranks.rank, samples=len(data.train), allowed=spec.data.bad_pictures)
        self.evaluation = Evaluation(spec, data, ranks=ranks, progress=lambda: watchdog.enter("probing", self.step))
        self.last_output: StepOutput
        self.step = 0
        self.cut_window: dict[str, Any] = {}
        self.probed: dict[str, float] = {}

    def train(self) -> bool:
        """Train to the last step.

        Returns:
            True when the run is complete, False when it saved and stopped because it was asked to.

        Raises:
            DivergedError: If the loss or a weight is no number any more, or the loss explodes.
            RecoError: For data and storage; each says what to do.
        """
        self.restore()
        self.reporter.progress("training", self.step)
        self.pace = Pace(self.spec.checkpoint, step=self.step)
        complete = self.train_steps()
        if self.saver is not None:
            self.watchdog.enter("saving", self.step)
            self.saver.finish()
        return complete

    def train_steps(self) -> bool:
        """The steps that are left; as `train`."""
        meetings = Meetings(self.ranks, step=self.step)
        with self.open_feed() as feed:
            self.window = Window(self.ranks.device, self.stream.counters)
            self.window.load_state(self.cut_window)
            for ready in self.timed(feed):
                self.quarantine.add(ready.batch.replaced)
                terms = self.train_step(ready)
                self.window.add(terms)
                if self.is_logging_step():
                    if self.log():
                        return False
                elif meetings.due(self.step) and meetings.agree(self.step, stop=self.heartbeat.stop_requested):
                    self.stop_here()
                    return False
        return True

    def train_step(self, ready: DeviceBatch) -> dict[str, Tensor]:
        """One step of the method; returns its terms as scalars on the device."""
        self.last_output = self.learner.learn(
            ready.pictures,
            epoch=ready.batch.epoch,
            sample_ids=ready.batch.sample_ids,
            step=self.step,
            learning_rate=self.learning_rate(),
            passed=self.passed,
        )
        self.step += 1
        return self.last_output.terms

    def passed(self, phase: Phase) -> None:
        """A phase of a step has ended, and the next one begins."""
        self.window.phases.passed(phase)
        self.watchdog.enter(PHASES[(PHASES.index(phase) + 1) % len(PHASES)], self.step)

    def learning_rate(self) -> float:
        """The learning rate of the step to come."""
        return learning_rate(
            self.step,
            base=self.spec.optimizer.lr,
            warmup_steps=self.plan.warmup_steps,
            total_steps=self.plan.total_steps,
        )

    def is_logging_step(self) -> bool:
        """Whether metrics are averaged after this step, the encoder judged, and a checkpoint made, as they are due."""
        return self.step % self.spec.train.log_every == 0 or self.is_probe_step() or self.step == self.plan.total_steps

    def epochs_of_window(self) -> range:
        """The epochs that the steps since the last logging step belong to."""
        first, last = self.step - self.window.steps, self.step - 1
        return range(first // self.plan.steps_per_epoch, last // self.plan.steps_per_epoch + 1)

    def is_probe_step(self) -> bool:
        """Whether the encoder is judged after this step."""
        return self.step % (self.plan.steps_per_epoch * self.spec.train.probe_every) == 0

    def log(self) -> bool:
        """Average the window over all ranks, probe, record and save as due; True when the run was asked to stop.

        Ranks agree on saving and stopping by the same reduction that averages the metrics.
        """
        self.watchdog.enter("logging", self.step)
        self.heartbeat.check_fence()
        epochs = self.epochs_of_window()
        metrics, agreed = self.window.close(
            self.ranks,
            self.stream.counters,
            {
                "save": float(self.save_is_due()),
                "stop": float(self.heartbeat.stop_requested),
                **{f"bad/{epoch}": float(self.quarantine.met(epoch)) for epoch in epochs},
                "spoiled": float(not self.weights_are_sound()),
            },
        )
        for epoch in epochs:
            self.quarantine.check(round(agreed[f"bad/{epoch}"]), epoch)
        if len(epochs) > 1:
            self.quarantine.let_go(before=epochs[-1])
        save, stop = agreed["save"], agreed["stop"]
        self.check_divergence(metrics, spoiled_weights=agreed["spoiled"] > 0)
        self.window = Window(self.ranks.device, self.stream.counters)
        metrics["train/learning_rate"] = self.learning_rate()
        metrics["time/pictures_per_s"] = self.spec.train.global_batch_size / metrics["time/step_s"]
        metrics["time/saving"] = self.pace.share
        metrics |= self.reporter.health(self.learner, self.last_output, self.step, metrics)
        if self.is_probe_step():
            self.reporter.progress("probing", self.step, metrics)
            with self.window.left_out():
                self.probed = self.evaluation.while_training(self.model)
            metrics |= self.probed
            self.reporter.probed(self.step, self.probed)
        self.reporter.record(self.step, metrics)
        self.reporter.progress("training", self.step, metrics)
        if save > 0 or stop > 0 or self.step == self.plan.total_steps:
            self.save()
        return stop > 0 and self.step < self.plan.total_steps

    def last_probe(self) -> dict[str, float]:
        """What the probes measured of the encoder as it is at the end; all ranks take part."""
        return self.probed if self.is_probe_step() and self.probed else self.evaluation.while_training(self.model)

    def stop_here(self) -> None:
        """Save between two logging steps, what was summed up since the last one included.

        Raises:
            DivergedError: There is nothing left that is worth saving.
        """
        self.watchdog.enter("saving", self.step)
        self.heartbeat.check_fence()
        sound = self.window.finite_steps == self.window.steps and self.weights_are_sound()
        if self.ranks.least(int(sound)) == 0:
            self.log()  # says in what
        self.save(self.window.state(self.ranks))

    def weights_are_sound(self) -> bool:
        """Whether this rank's weights are all numbers."""
        return weights_are_numbers(self.model.query_encoder.parameters())

    def check_divergence(self, metrics: dict[str, float], *, spoiled_weights: bool) -> None:
        """End a run that cannot learn any more, on all ranks.

        Raises:
            DivergedError: With the cause, the step at which it was first seen, and what was saved before.
        """
        method = self.spec.method
        broken = what_broke(
            metrics, queue_size=method.queue_size, temperature=method.temperature, spoiled_weights=spoiled_weights
        )
        if broken is None:
            return
        step = self.ranks.least(min(self.step - self.window.steps + self.window.finite_steps + 1, self.step))
        saved = 0
        if self.saver is not None:
            self.saver.settle()
            saved = self.saver.last_saved or self.reporter.resumed_from
        saved = self.ranks.from_first(saved)
        kept = f"the last good checkpoint is that of step {saved}" if saved else "no checkpoint was written before"
        raise DivergedError(
            f"{broken} at step {step}; {kept}.",
            hint="Lower optimizer.lr or raise method.temperature, and start a new run.",
        )

    def save_is_due(self) -> bool:
        """Whether this rank, the first, wants a checkpoint after this step."""
        if self.saver is None:
            return False
        self.saver.look()
        return self.pace.due(self.step, busy=self.saver.busy, owing=self.saver.owing)

    def save(self, cut_window: dict[str, Any] | None = None) -> None:
        """Have a checkpoint made, with the records that led to it; all ranks take part.

        Args:
            cut_window: State of the window, where it is not at its end.
        """
        self.watchdog.enter("saving", self.step)
        with self.pace.saving(self.step), self.window.left_out():
            self.ranks.average_batch_statistics(self.model)
            self.quarantine.write()
            if self.saver is not None:
                state = self.learner.state() | {"step": self.step, "window": cut_window or {}}
                self.saver.save(state, step=self.step, records=self.reporter.take_records())

    def restore(self) -> None:
        """Take up the newest whole checkpoint, if there is one: the one that the first rank finds, on all ranks.

        Where there is none, a fork begins with the encoders of the run it comes from.
        """
        found = None
        if self.ranks.is_first:
            found = load_newest(self.folder.storage, spec_hash=self.spec.hash, dataset_hash=self.data.train.hash)
        step = self.ranks.from_first(found[0].step if found else 0)
        if step == 0:
            if (origin := self.folder.origin()) is not None:
                self.learner.begin_with(load_encoders(self.folder, origin))
            return
        state = found[1] if found else load(self.folder.storage, step)
        self.learner.load_state(state)
        if self.ranks.is_first:
            self.quarantine.take_up(step // self.plan.steps_per_epoch, step)
        self.cut_window = state["window"]
        self.step = self.reporter.resumed_from = step
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
            self.watchdog.enter("wait", self.step)  # after a logging step too, which ends without a word
            ready = next(batches, None)
            if ready is None:
                return
            self.window.waited += time.perf_counter() - start
            yield ready
