"""The first rank's thread to the outside: publishes progress and hears requests to stop, so the loop never waits."""

from __future__ import annotations

import itertools
import logging
import threading
from types import TracebackType
from typing import Self

from jobs.checkpoints.fence import Fence, FencedError
from jobs.errors import RecoError
from jobs.run_folder import Progress, RunFolder

_log = logging.getLogger(__name__)

_BEATS_PER_FENCE = 5


class Heartbeat:
    """Publishes the latest progress at most once per interval.

    Args:
        folder: The run's folder.
        fence: This attempt's right to write; None where this rank does not write.
        seconds: Shortest time between two writes or two looks for a stop request.
    """

    def __init__(self, folder: RunFolder, *, fence: Fence | None = None, seconds: float = 1.0) -> None:
        self._fence = fence
        self._fenced: FencedError | None = None
        self._folder = folder
        self._seconds = seconds
        self._latest: Progress | None = None
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._failing = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._fenced is None and not isinstance(error, FencedError):
            self._write()

    def publish(self, progress: Progress) -> None:
        """Replace what will be written next."""
        with self._lock:
            self._latest = progress

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the workers to save and return."""
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Ask from inside the process, as a signal handler does."""
        self._stop.set()

    def check_fence(self) -> None:
        """Do nothing while this attempt was the newest when last looked at.

        Raises:
            FencedError: A newer one has taken the run over.
        """
        if self._fenced is not None:
            raise self._fenced

    def _beat(self) -> None:
        for beat in itertools.count():
            if self._ended.wait(self._seconds):
                return
            try:
                if self._fence is not None and beat % _BEATS_PER_FENCE == 0:
                    self._fence.check()
            except FencedError as error:
                self._fenced = error
                return
            except (RecoError, OSError) as error:
                self._note(error)
            self._write()
            try:
                if self._folder.stop_requested() or self._folder.pause_requested():
                    self._stop.set()
            except (RecoError, OSError) as error:
                self._note(error)

    def _write(self) -> None:
        with self._lock:
            progress, self._latest = self._latest, None
        if progress is None:
            return
        try:
            self._folder.write_progress(progress)
            self._failing = False
        except (RecoError, OSError) as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        # Watching is not worth a run: an outage of the storage is said once, and the run's own writes decide.
        if not self._failing:
            _log.warning("progress of run %s cannot be published: %s", self._folder.run_id, error)
        self._failing = True
