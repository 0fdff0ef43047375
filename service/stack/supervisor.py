"""Keeps the parts of a stack up: starts them in order, starts again what dies, gives up what keeps dying.

Parts are no children that end with their supervisor: one that was killed is followed by another, which takes up what
still runs. Ray and the runs on it never notice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.errors import RecoError
from service.stack.kinds import SERVING
from service.stack.parts import Part
from service.stack.processes import Process
from service.stack.record import Recorder

_log = logging.getLogger("reco.stack")


@dataclass(frozen=True)
class Patience:
    """How long the supervisor waits for what, in seconds.

    Attributes:
        first_wait: Before a part that died is started again; doubled with each death in a row.
        longest_wait: Before the last of these.
        deaths: In a row, after which a part is given up.
        calm: A part that was well for so long begins to count anew.
        look: Between two looks at whether a part is alive.
        ask: Between two questions to a part that is up.
        ask_starting: Between two questions to one that is being started.
    """

    first_wait: float = 1.0
    longest_wait: float = 30.0
    deaths: int = 6
    calm: float = 120.0
    look: float = 0.25
    ask: float = 5.0
    ask_starting: float = 0.5

    def wait(self, deaths: int) -> float:
        """Before the next start, after so many deaths in a row."""
        return float(min(self.first_wait * 2 ** (deaths - 1), self.longest_wait))


class Supervisor:
    """A thread for each part, which starts and watches it until it is told to let go.

    Args:
        parts: In the order in which they are started.
        recorder: What it notes in.
        patience: How long it waits for what.
        up: Called when a part is up, and with which.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        recorder: Recorder,
        *,
        patience: Patience = Patience(),
        up: Callable[[Part], None] = lambda _: None,
    ) -> None:
        self._parts, self._recorder, self._patience, self._up = parts, recorder, patience, up
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._wishes = 0  # how often somebody asked for what was given up
        self._well: set[str] = set()
        self._anew: set[str] = set()

    def run(self, running: Mapping[str, Process]) -> None:
        """Keep the parts up until `let_go`.

        Args:
            running: Processes of parts that an earlier supervisor has started, and that are still there.
        """
        self._anew.intersection_update(running)  # what is started now knows how everything is
        for part in self._parts:
            self._recorder.part(part.name, state="waiting", url=part.url, log=str(part.log), restarts=0, words="")
        threads = [
            threading.Thread(target=self._keep, args=(part, running.get(part.name)), name=part.name)
            for part in self._parts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def let_go(self) -> None:
        """Leave the parts as they are; `run` returns soon."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def try_again(self) -> None:
        """Start what was given up, and do not wait with what is about to be started again."""
        with self._changed:
            self._wishes += 1
            self._changed.notify_all()

    def start_anew(self, names: Iterable[str]) -> None:
        """End and start parts that were told something that is not so any more."""
        with self._changed:
            self._anew.update(names)

    def _keep(self, part: Part, process: Process | None) -> None:
        try:
            self._keep_up(part, process)
        except Exception as error:  # noqa: BLE001 - the other parts are kept up all the same
            _log.exception("%s is not supervised any more", part.name)
            self._recorder.part(part.name, state="failed", words=f"unexpected: {type(error).__name__}: {error}")

    def _keep_up(self, part: Part, process: Process | None) -> None:
        if not self._wait_for(part):
            return
        deaths, wishes = 0, self._wishes
        while not self._stopping.is_set():
            self._recorder.part(part.name, state="starting", words="")
            try:
                if process is None or not process.alive:
                    process = part.start(self._stopping)
                self._recorder.part(part.name, process=process, url=part.url)
                calm, words = self._watch(part, process)
            except (RecoError, OSError) as error:
                calm, words = False, str(error)
            self._well.discard(part.name)
            process = None
            if self._stopping.is_set():
                return
            deaths = 1 if calm else deaths + 1
            _log.warning("%s died (%d in a row): %s", part.name, deaths, words)
            if deaths >= self._patience.deaths:
                self._recorder.part(part.name, state="failed", restarts=deaths - 1, words=words)
                wishes = self._pause(wishes, None)
                deaths = 0
                continue
            wait = self._patience.wait(deaths)
            self._recorder.part(part.name, state="restarting", restarts=deaths, words=words)
            wishes = self._pause(wishes, wait)

    def _watch(self, part: Part, process: Process | None) -> tuple[bool, str]:
        """Look at a part until it has died; returns whether it had been well for long, and what it said last."""
        began = asked = time.monotonic()
        well_since: float | None = None
        while not self._stopping.is_set():
            now = time.monotonic()
            if process is not None and not process.alive:
                return _long(well_since, now, self._patience.calm), part.last_words()
            if part.name in self._anew:
                self._anew.discard(part.name)
                part.stop(process)
                return True, "another part has moved"
            if now >= asked:
                wrong = part.trouble(process)
                starting = well_since is None
                if wrong is None:
                    well_since = well_since or now
                    self._is_up(part, calm=_long(well_since, now, self._patience.calm))
                elif starting and now - began > part.start_s:
                    part.stop(process)
                    return False, f"it was not well within {part.start_s:g} s: {wrong}"
                else:
                    self._recorder.part(part.name, words=wrong)
                asked = time.monotonic() + (self._patience.ask_starting if well_since is None else self._patience.ask)
            self._stopping.wait(self._patience.look)
        return False, ""

    def _is_up(self, part: Part, *, calm: bool) -> None:
        self._recorder.part(part.name, state="up", words="", **({"restarts": 0} if calm else {}))
        if part.name not in self._well:
            with self._changed:
                self._well.add(part.name)
                self._changed.notify_all()
            self._up(part)

    def _wait_for(self, part: Part) -> bool:
        """Wait until the parts are up that this one needs; whether it is still wanted then."""
        with self._changed:
            while not self._stopping.is_set():
                missing = [name for name in part.needs if name not in self._well]
                if not missing:
                    return True
                self._recorder.part(part.name, words=f"waits for {' and '.join(missing)}")
                self._changed.wait()
        return False

    def _pause(self, wishes: int, seconds: float | None) -> int:
        """Wait so long, or until somebody wishes to go on; returns how often that was wished by now."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping.is_set() or self._wishes > wishes, seconds)
            return self._wishes


def take_down(parts: Sequence[Part], recorder: Recorder, save: Callable[[], None]) -> None:
    """End all parts, the last one first; those that are missing do no harm.

    Args:
        parts: In the order in which they are started.
        recorder: What it notes in, and knows their processes from.
        save: Called when nothing works on runs any more, and what runs need is still there.
    """
    serving = [each for each in parts if each.name in SERVING]
    rest = [each for each in parts if each.name not in SERVING]
    for part in [*reversed(serving), None, *reversed(rest)]:
        if part is None:
            save()
            continue
        known = recorder.record.parts.get(part.name)
        recorder.part(part.name, state="stopping", words="")
        try:
            part.stop(None if known is None else known.process)
        except (RecoError, OSError) as error:  # what comes after it is ended all the same
            _log.warning("%s cannot be ended: %s", part.name, error)
            recorder.part(part.name, state="failed", words=f"it cannot be ended: {error}")
        else:
            recorder.part(part.name, state="stopped", process=None)


def _long(since: float | None, now: float, seconds: float) -> bool:
    return since is not None and now - since >= seconds
