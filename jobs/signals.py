"""Ctrl-C and SIGTERM, taken as a wish to save and stop."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

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
