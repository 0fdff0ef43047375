"""Carries metrics from the training loop to MLflow in the background: each step once, in order, through any outage."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.tracking.client import reason, shown
from jobs.tracking.spool import Record, Spool

if TYPE_CHECKING:
    from jobs.tracking.runs import TrackedRun

LOSS = "train/loss"
LOSS_BY_PICTURES = "train/loss_by_pictures"
PICTURES_SEEN = "pictures_seen"

METRICS_PER_REQUEST = 999
"""Most metrics sent in one `log_batch`: MLflow's client silently splits more than 1000, a tag included."""

_NAME = re.compile(r"[\w\-. :/]{1,250}")

logger = logging.getLogger("jobs.tracking")


class MetricSender:
    """Takes metrics from the training loop and sends them from a thread of its own.

    All metrics of a step travel in one `log_batch`, which MLflow's database stores whole or not at all. So the newest
    step MLflow holds is a true high-water mark, and after any crash exactly the steps above it are sent. While the
    server is away records wait in memory and in the spool; they are retried for ever.

    Args:
        run: The run the metrics belong to.
        spool: File for what was not sent yet, on a disk that outlives the process. Records left there by an earlier
            process of the same run are sent first.
        retry_seconds: First and longest wait between two attempts; it doubles in between.
    """

    def __init__(self, run: TrackedRun, *, spool: Path, retry_seconds: tuple[float, float] = (0.5, 15.0)) -> None:
        self._run = run
        self._spool = Spool(spool, run.run_id)
        self._retry_seconds = retry_seconds
        self._newest = run.high_water
        self._last_call = -1
        self._pending: deque[Record] = deque(self._spool.recover(after=run.high_water))
        if self._pending:
            self._newest = self._pending[-1].step
        self._changed = threading.Condition()
        self._closing = False
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="metric-sender", daemon=True)
        self._thread.start()

    def log(self, step: int, pictures: int, metrics: Mapping[str, float]) -> None:
        """Hand over all metrics of one step; returns within microseconds, whatever the server does.

        `pictures_seen` and, beside `train/loss`, `train/loss_by_pictures` (against pictures, not steps) are added. A
        step that is in MLflow or in the spool already (a resumed run repeats those since its checkpoint) is left out.
        NaN and infinity are not stored as values: they are counted, by metric, in the run's tag `reco.non_finite`.

        Args:
            step: Global step; rises from call to call.
            pictures: Pictures seen so far, all workers together.
            metrics: Values by name.

        Raises:
            ValueError: The step did not rise, or MLflow would not take the names.
        """
        if step <= self._last_call:
            raise ValueError(f"step {step} after step {self._last_call}: log all metrics of a step in one call")
        self._last_call = step
        if step <= self._newest:
            return
        _check_names(metrics)
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        bad = [name for name in values if name not in finite]
        record = Record(self._run.run_id, step, pictures, time.time_ns() // 1_000_000, finite, bad)
        self._newest = step
        self._spool.append(record)
        with self._changed:
            self._pending.append(record)
            self._changed.notify()

    @property
    def unsent(self) -> int:
        """Records that MLflow does not hold yet."""
        return len(self._pending)

    def flush(self, timeout: float) -> int:
        """Wait until everything is sent, or for `timeout` seconds; return how many records are still unsent."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout=max(0.0, deadline - time.monotonic()))
            return len(self._pending)

    def close(self, timeout: float) -> int:
        """Send what is left for at most `timeout` seconds and stop.

        Returns:
            Records still unsent. They stay in the spool, and the next sender of this run with that spool sends them.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        unsent = self.flush(timeout)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)  # A request still in flight ends with the process; its records are in the spool.
        self._spool.close()
        if unsent:
            logger.warning("%d logged steps have not reached MLflow; they are kept in %s", unsent, self._spool.path)
        return unsent

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._stopped)
                if self._stopped:
                    return
                batch = _batch(self._pending)
            try:
                # A request that failed may have arrived all the same.
                sent_until = self._run.refresh_high_water() if failures else -1
                batch = [record for record in batch if record.step > sent_until]
                if batch:
                    self._run.send(batch)
                    sent_until = batch[-1].step
            except Exception as error:  # noqa: BLE001  (whatever a server or proxy answers, it must not end this thread)
                failures += 1
                if failures == 1:
                    self._note_outage(error)
                self._pause(failures)
                continue
            with self._changed:
                while self._pending and self._pending[0].step <= sent_until:
                    self._pending.popleft()
                self._changed.notify_all()
            if failures:
                logger.warning("MLflow at %s takes metrics again", shown(self._run.uri))
                failures = 0

    def _note_outage(self, error: Exception) -> None:
        logger.warning(
            "MLflow at %s takes no metrics (%s); training goes on, they are kept in %s and sent later",
            shown(self._run.uri),
            reason(error),
            self._spool.path,
        )

    def _pause(self, failures: int) -> None:
        first, longest = self._retry_seconds
        with self._changed:
            closing = self._closing
            # Closing ends the wait under way: its few seconds are spent on attempts, not on the long back-off.
            seconds = first if closing else min(longest, first * 2.0 ** min(failures - 1, 20))
            self._changed.wait_for(lambda: self._stopped or self._closing != closing, timeout=seconds)


def _batch(pending: deque[Record]) -> list[Record]:
    """Return the first records that fit into one request, at least one."""
    batch: list[Record] = []
    total = 0
    for record in pending:
        total += len(record.metrics) + 2
        if batch and total > METRICS_PER_REQUEST:
            break
        batch.append(record)
    return batch


def _check_names(metrics: Mapping[str, float]) -> None:
    if len(metrics) + 2 > METRICS_PER_REQUEST:
        raise ValueError(f"{len(metrics)} metrics in one step; MLflow takes {METRICS_PER_REQUEST - 2}")
    for name in metrics:
        if not _NAME.fullmatch(name):
            raise ValueError(f"metric name {name!r}: up to 250 letters, digits, spaces and any of _ - . : /")
        if name in (PICTURES_SEEN, LOSS_BY_PICTURES):
            raise ValueError(f"metric {name!r} is added by the sender")
