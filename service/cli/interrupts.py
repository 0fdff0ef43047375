"""Ctrl-C as a wish while a run is followed: the first is heard and asked about, the second leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """Hears Ctrl-C and SIGTERM while it is entered, also where whoever started this ignored them.

    The second one raises KeyboardInterrupt, unless the first was `forget`ten.

    Attributes:
        told_to_end: It was SIGTERM: whoever sent it expects no question.
    """

    def __init__(self) -> None:
        self.told_to_end = False
        self._waits = False  # one was heard, and not answered yet
        self._heard = threading.Event()
        self._before: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what it was

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until one is heard; returns whether one was."""
        return self._heard.wait(seconds)

    def forget(self) -> None:
        """What was heard has been answered."""
        self._heard.clear()
        self._waits = False

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self._waits:
            raise KeyboardInterrupt
        self._waits, self.told_to_end = True, number == signal.SIGTERM
        # In a thread: a signal that comes while this one is inside `wait` would wait for its own lock.
        threading.Thread(target=self._heard.set).start()
