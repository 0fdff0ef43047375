"""What happens to a run as a server-sent stream: nothing is lost or told twice, however often it is cut off."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from jobs.errors import RecoError
from service.api.errors import BusyError
from service.api.gate import Caller, KnownTokens
from service.api.settings import ApiSettings
from service.contract.interface import Service
from service.contract.messages import RunView
from service.control.control import Control
from service.control.views import run_view

_AT_ONCE = 500
_log = logging.getLogger("reco.api")


class Streams:
    """All streams of this process.

    Args:
        control: The service.
        known: Looks whether a stream's token is still good.
        settings: How often is looked, and how many there may be.
    """

    def __init__(self, control: Control, known: KnownTokens, settings: ApiSettings) -> None:
        self._control, self._known, self._settings = control, known, settings
        self._closing = threading.Event()
        self._number = 0

    def close(self) -> None:
        """End all of them soon: the process is about to end, and would wait for them."""
        self._closing.set()

    def open(self, service: Service, caller: Caller, run_id: str, *, after: int) -> EventSourceResponse:
        """A stream of what happens after an event.

        Args:
            service: For its caller.
            caller: Whose token is looked at from time to time.
            run_id: The run; the caller may see it.
            after: Number of the last event that is known.

        Raises:
            BusyError: There are as many streams as there may be.
        """
        if self._number >= self._settings.streams:
            raise BusyError(
                f"there are {self._number} event streams already.", hint="Ask for the list of events instead."
            )
        return EventSourceResponse(self._messages(service, caller, run_id, after), headers={"X-Accel-Buffering": "no"})

    async def _messages(self, service: Service, caller: Caller, run_id: str, after: int) -> AsyncIterator[bytes]:
        self._number += 1
        try:
            async for message in self._told(service, caller, run_id, after):
                yield message
        except RecoError as error:  # it was deleted, or the database is away: a client that asks again is told which
            _log.info("the stream of %s ends: %s", run_id, error)
        finally:
            self._number -= 1

    async def _told(self, service: Service, caller: Caller, run_id: str, last: int) -> AsyncIterator[bytes]:
        settings, seen = self._settings, None
        said = checked = time.monotonic()
        while not self._closing.is_set():
            events = await run_in_threadpool(service.runs.events, run_id, after=last, limit=_AT_ONCE)
            for each in events:
                last = each.number
                yield format_sse_event(event="event", data_str=each.model_dump_json(), id=str(last))
                said = time.monotonic()
            # Looked at after the events: what it is ahead of them by is told in the next round.
            run = await run_in_threadpool(self._view, run_id)
            if run.version <= last and (run.version, run.progress_at) != seen:
                seen = (run.version, run.progress_at)
                yield format_sse_event(event="end" if run.state.is_final else "run", data_str=run.model_dump_json())
                said = time.monotonic()
                if run.state.is_final:
                    return
            if run.version > last:
                continue
            now = time.monotonic()
            if now - checked >= settings.heartbeat_s:
                if await self._known.check(caller.secret) is None:
                    return
                checked = now
            if now - said >= settings.heartbeat_s:
                yield KEEPALIVE_COMMENT
                said = now
            await asyncio.sleep(settings.poll_s)

    def _view(self, run_id: str) -> RunView:
        run = self._control.store.get(run_id)
        return run_view(run, self._control.store.progress_of([run_id]).get(run_id))
