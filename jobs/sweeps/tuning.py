"""Ray Tune at work: it asks the study for trials, places them, and hears from them; the study decides.

Tune stops a trial by killing its process, which leaves the workers of a Ray Train run and their placement group behind
until a cleaner has asked the dashboard about them. So no trial is ever stopped by Tune: its run is asked to save and
return, as `reco sweep stop` does, and the trial ends by itself.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from jobs.checkpoints.fence import FencedError
from jobs.errors import RecoError
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Trial
from jobs.sweeps.study import Study
from jobs.sweeps.trial import TrialContext, carry_out

_log = logging.getLogger("reco.sweep")

_LOOK_S = 1.0
_CLOCK_S = 10.0
_CRASHES = 2


class Closing:
    """Why a sweep is to save and stop, once there is a reason."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: RecoError | None = None

    def __bool__(self) -> bool:
        return self.reason is not None

    def because(self, reason: str, error: RecoError | None = None) -> None:
        """There is one; the first counts."""
        if self.reason is None:
            self.reason, self.error = reason, error
            _log.info("saving and stopping the trials under way: %s", reason)


def carry_out_trials(study: Study, folder: SweepFolder, context: TrialContext, *, concurrency: int) -> str | None:
    """Carry out what is left of a sweep.

    Args:
        study: The sweep's.
        folder: The sweep's.
        context: For the trials.
        concurrency: Trials at a time.

    Returns:
        Why it stopped before its end; None where it is complete.

    Raises:
        RecoError: The ledger could not be written, or MLflow or the storage did not answer a trial.
    """
    if not study.left:
        return None
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the first Ctrl-C saves
    # Of each trial it says that files of Tune's own loggers are missing, which are switched off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    closing = Closing()
    hall = _Hall(study, folder, closing)
    with tempfile.TemporaryDirectory(prefix="reco-tune-", ignore_cleanup_errors=True) as notes:
        tuner = tune.Tuner(
            tune.with_resources(
                functools.partial(carry_out, context=context),
                # Beside this process, and for nothing: a trial only waits for its run, which has resources of its own.
                tune.PlacementGroupFactory([{"CPU": 0.0, _this_node(): 0.001}]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=_Search(hall),
                scheduler=_Scheduler(hall),
                num_samples=study.left,
                max_concurrent_trials=concurrency,
                reuse_actors=False,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=notes,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_CRASHES),
            ),
        )
        with _Watch(hall):
            tuner.fit()
    if closing.error is not None:
        raise closing.error
    return closing.reason


class _Hall:
    """Where Tune and the study meet.

    Attributes:
        study: The sweep's.
        folder: The sweep's.
        closing: Whether no trial begins any more.
        under_way: Numbers of the trials that Tune carries out.
    """

    def __init__(self, study: Study, folder: SweepFolder, closing: Closing) -> None:
        self.study, self.folder, self.closing = study, folder, closing
        self.under_way: set[int] = set()
        self._seeds: dict[int, list[float]] = {}
        self._failures: dict[int, str] = {}

    def next(self) -> Trial | None:
        """The next trial to carry out."""
        trial: Trial | None = None if self.closing else self._guarded(self.study.next)
        if trial is None:
            return None
        self.under_way.add(trial.number)
        _log.info("trial %d: %s", trial.number, trial.values)
        return trial

    def heard(self, number: int, result: dict[str, Any]) -> None:
        """A trial has reported."""
        if "outage" in result:
            self.closing.because(result["outage"], RecoError(result["outage"], hint=result["hint"] or None))
        elif "failure" in result:
            self._failures[number] = result["failure"]
        elif "seeds" in result:
            self._seeds[number] = result["seeds"]
        elif "objective" in result and not self.study.trials[number].stopping:
            epoch, objective = result["epoch"], result["objective"]
            if self._guarded(lambda: self.study.report(number, epoch, objective)) is False:
                _log.info("trial %d stops early at epoch %d with %.4g", number, epoch, objective)
                self._guarded(self.folder.run(number).request_stop)

    def ended(self, number: int, failure: str | None = None) -> None:
        """A trial's process has ended."""
        self.under_way.discard(number)
        failure = self._failures.get(number, failure)
        seeds = self._seeds.get(number)
        if self.study.trials[number].stopping:
            failure, seeds = None, None  # a fast one may have come to its end before it heard of it
        elif failure is not None:
            _log.warning("trial %d failed: %s", number, failure)
        elif seeds is None:
            return  # it was saved, to go on another time
        self._guarded(lambda: self.study.end(number, seeds=seeds, failure=failure))

    def _guarded(self, act: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it returns is the act's
        """Do what writes to the storage; where that fails, the sweep saves and stops, for nothing may be forgotten."""
        try:
            return act()
        except RecoError as error:
            self.closing.because(error.message, error)
            return None


class _Search(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands Tune the study's trials."""

    def __init__(self, hall: _Hall) -> None:
        super().__init__()
        self._hall = hall

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        trial = self._hall.next()
        return str(Searcher.FINISHED) if trial is None else {"trial": trial.number, "values": trial.values}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass  # the scheduler below has heard of it

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # the ledger is what a sweep is taken up from

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Scheduler(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Lets the study hear what Tune hears; trials end by themselves."""

    def __init__(self, hall: _Hall) -> None:
        super().__init__()
        self._hall = hall

    def on_trial_result(self, _controller: object, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        self._hall.heard(trial.config["trial"], result)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, _controller: object, trial: Any, result: dict[str, Any]) -> None:  # noqa: ANN401
        self._hall.ended(trial.config["trial"])

    def on_trial_error(self, _controller: object, trial: Any) -> None:  # noqa: ANN401
        last = (str(trial.get_pickled_error() or "").strip().splitlines() or ["no word"])[-1]
        self._hall.ended(trial.config["trial"], failure=f"its process died: {last}")

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Watch:
    """Every second: was the sweep asked to stop, is its budget used up; and asks the runs under way to save."""

    def __init__(self, hall: _Hall) -> None:
        self._hall = hall
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sweep-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        folder, closing = self._hall.folder, self._hall.closing
        spent, written, last = folder.spent(), 0.0, time.monotonic()
        scale = self._hall.study.scale
        while not self._ended.wait(_LOOK_S):
            now = time.monotonic()
            spent["wall_s"] += now - last
            spent["gpu_s"] += (now - last) * len(self._hall.under_way) * scale.workers * scale.gpus_per_worker
            last = now
            try:
                if now - written > _CLOCK_S:
                    folder.write_spent(spent)
                    written = now
                if (why := self._hall.study.over_budget(spent["wall_s"], spent["gpu_s"])) is not None:
                    closing.because(why)
                if folder.stop_requested():
                    closing.because("it was asked to")
                # Where a newer attempt has the sweep, its runs are no longer ours to stop.
                if closing and not isinstance(closing.error, FencedError):
                    self._ask_runs()
            except (RecoError, OSError) as error:
                _log.warning("the sweep's folder does not answer: %s", error)
        try:
            folder.write_spent(spent)
        except (RecoError, OSError) as error:
            _log.warning("what was spent could not be kept: %s", error)

    def _ask_runs(self) -> None:
        """Ask again and again: a run forgets what it was asked before it began."""
        for number in list(self._hall.under_way):
            for seed in range(self._hall.study.seeds):
                run = self._hall.folder.run(number, seed)
                if run.storage.exists("spec.yaml") and not run.stop_requested():
                    run.request_stop()


def _this_node() -> str:
    return f"node:{ray.util.get_node_ip_address()}"
