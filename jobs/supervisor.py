"""A run over all its attempts: workers are placed, watched, and placed again, until the run is complete.

Ray Train could restart workers by itself. It counts failures over the whole life of a run, however much was trained in
between, waits a minute for hosts it knows to be leaving, and throws away the steps since the last checkpoint when a
host joins. So it is only asked to place workers, and what happens then is decided here.
"""

from __future__ import annotations

import logging
import time

from jobs.attempt import Attempt, Work
from jobs.checkpoints.manifest import list_manifests
from jobs.cluster import hosts_at_hand, workers_must_leave
from jobs.errors import RecoError
from jobs.run_folder import Pause, RunFolder, Stall
from jobs.spec import RunSpec
from jobs.tracking.runs import TrackedRun
from jobs.training.run import run
from jobs.training.watchdog import culprit, described

_log = logging.getLogger("reco.supervisor")

_LOOK_S = 1.0
_SETTLE_S = 10.0  # until what Ray says is free has followed what was placed or ended
_LONGEST_WAIT_S = 60.0


def train(spec: RunSpec, folder: RunFolder, tracked: TrackedRun | None, *, work: Work = run) -> dict[str, float] | None:
    """Train until the run has its results; None when it was asked to stop.

    Args:
        spec: What to train.
        folder: The run's folder.
        tracked: The run in MLflow; None where it is not tracked.
        work: What the workers do.

    Raises:
        FencedError: Somebody else has begun to train the run, and goes on.
        RecoError: The run has failed for good, or more often than the spec allows without a new checkpoint between.
    """
    restarts = Restarts(spec.scale.max_restarts)
    known = folder.stalls()
    while True:
        workers = _wait_for_room(spec, folder)
        if workers is None:
            return None
        _log.info("placing %d workers", workers)
        with Attempt(spec, folder, tracked, workers=workers, work=work) as attempt:
            pause = _watch(spec, folder, attempt)
        if (fenced := attempt.fenced) is not None:  # looked at first: what the folder says is not of this attempt
            raise fenced
        if (permanent := folder.failure()) is not None:
            raise permanent from attempt.error
        if attempt.error is None:
            if (results := folder.result()) is not None:
                return results
            if folder.stop_requested():
                return None
            _log.info("saved to go on without the hosts that leave" if pause == "drain" else "saved to go on with more")
            continue
        step = max((manifest.step for manifest in list_manifests(folder.storage)), default=0)
        stalls = folder.stalls()
        cause = _cause(attempt, [stall for stall in stalls if stall not in known])
        known = stalls
        wait = restarts.failed(step, outside=attempt.outside_the_run)
        if wait is None:
            raise RecoError(
                f"training of run {folder.run_id} failed after {restarts.allowed} restarts: {cause}",
                hint="The log above has the workers' tracebacks; the same --run-id continues from the last checkpoint.",
            ) from attempt.error
        if folder.stop_requested():
            return None
        _log.warning("an attempt failed (%s); going on from step %d in %.0f s", cause, step, wait)
        time.sleep(wait)


class Restarts:
    """How often a run may fail before it is given up: the count begins anew with every new checkpoint.

    Args:
        allowed: Failures in a row, without a new checkpoint between, after which it goes on.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self._step = 0
        self._failures = 0
        self._outages = 0

    def failed(self, step: int, *, outside: bool) -> float | None:
        """Count a failure.

        Args:
            step: The newest checkpoint's.
            outside: The run is not to blame: it does not count, but the next try comes later and later.

        Returns:
            Seconds to wait before the next attempt, 0 after the first failure; None when there must be none.
        """
        if step > self._step:
            self._step, self._failures, self._outages = step, 0, 0
        if outside:
            self._outages += 1
        else:
            self._failures += 1
        if self._failures > self.allowed:
            return None
        row = self._failures + self._outages
        return 0.0 if row == 1 else min(2.0 ** (row - 1), _LONGEST_WAIT_S)


def _wait_for_room(spec: RunSpec, folder: RunFolder) -> int | None:
    """Workers to place, as soon as there is room for the fewest; None when the run was asked to stop meanwhile."""
    told = False
    settled = time.monotonic() + _SETTLE_S
    while True:
        hosts = hosts_at_hand(spec.scale, reachable=True)
        workers = spec.workers_that_fit(hosts.free)
        # What ended a moment ago may not be free yet.
        if workers and (workers == spec.workers_that_fit(hosts.room) or time.monotonic() > settled):
            folder.clear_pause()
            return workers
        if folder.stop_requested():
            return None
        if not told and time.monotonic() > settled:
            told = True
            _log.warning(
                "waiting for hosts: there is room for %d workers, the run needs %d", hosts.free, spec.fewest_workers
            )
            progress = folder.progress() or {"step": 0}
            folder.write_progress({**progress, "phase": "waiting for hosts"})
        time.sleep(_LOOK_S)


def _watch(spec: RunSpec, folder: RunFolder, attempt: Attempt) -> Pause | None:
    """Wait for an attempt's end; ask it to pause when one of its hosts is about to leave, or more workers would fit."""
    asked: Pause | None = None
    looks_with_more = 0
    while not attempt.wait(_LOOK_S):
        if asked is not None:
            continue
        room = attempt.workers + hosts_at_hand(spec.scale).free
        looks_with_more = looks_with_more + 1 if spec.workers_that_fit(room) > attempt.workers else 0
        if workers_must_leave():
            asked = "drain"
        elif looks_with_more * _LOOK_S >= _SETTLE_S:
            asked = "resize"
        if asked is not None:
            _log.info("asking the workers to save: %s", "a host leaves" if asked == "drain" else "a host has joined")
            folder.request_pause(asked)
    return asked


def _cause(attempt: Attempt, stalls: list[Stall]) -> str:
    """What ended an attempt, in a line."""
    return described(culprit(stalls)) if stalls else attempt.cause
