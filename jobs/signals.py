"""Wishes to save and stop: Ctrl-C and SIGTERM, or that of another job, passed on."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

from jobs.storage import StorageError

_log = logging.getLogger("reco")


@contextlib.contextmanager
def stop_on_signal(ask: Callable[[], None], *, what: str) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM save and stop, and a second one end the process at once.

    Args:
        ask: Called for the first one; it returns soon.
        what: Is stopped, for the log.
    """

    def asked(_number: int, _frame: object) -> None:
        _log.info("saving a checkpoint and stopping %s", what)
        ask()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)  # a second signal ends at once

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_passed_on(asked: Callable[[], bool], ask: Callable[[], None], *, every_s: float = 5.0) -> Iterator[None]:
    """Ask for a stop once something else was asked for one, as the run is that a sweep trains at last.

    Args:
        asked: Whether it was; where the storage does not answer, it is looked for again.
        ask: Called once.
        every_s: Seconds between two looks.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            try:
                if asked():
                    ask()
                    return
            except StorageError as error:
                _log.warning("whether it is to stop cannot be seen now: %s", error)

    watcher = threading.Thread(target=look, name="stop-passed-on", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
