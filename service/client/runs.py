"""Runs and sweeps over HTTP, for the contract."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from jobs.errors import RecoError
from service.client.errors import ApiUnreachableError
from service.client.http import LONG_READ_S, AskAgainError, Http
from service.client.stream import sent
from service.contract.interface import EVERYTHING, NO_CHANGE, Runs, Wanted
from service.contract.messages import (
    Change,
    CheckpointView,
    DatasetView,
    Deleted,
    EventView,
    LogChunk,
    Plan,
    RunDetails,
    RunId,
    RunPage,
    RunView,
    Submission,
    SweepBoard,
)
from service.runs.errors import UnknownRunError

LARGEST_PAGE = 500
MOST_EVENTS = 1000
"""Of one answer of the API."""
_ID = TypeAdapter(RunId)


class HttpRuns(Runs):
    """Runs, asked for over HTTP.

    Args:
        http: The API.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    def plan(self, submission: Submission) -> Plan:
        """See `Runs.plan`."""
        return self._http.post("/v1/plans", Plan, submission, repeat=True)

    def submit(self, submission: Submission, *, key: str | None = None) -> RunView:
        """See `Runs.submit`. Without a key it has one of its own, so that it can be repeated where no answer comes."""
        return self._http.post("/v1/runs", RunView, submission, key=key or _new_key())

    def page(self, wanted: Wanted = EVERYTHING, *, after: str | None = None, limit: int = 50) -> RunPage:
        """See `Runs.page`."""
        named = {
            "kind": wanted.kind,
            "name": wanted.name,
            "project": wanted.project,
            "owner": wanted.owner,
            "condition": wanted.condition,
            "after": after,
        }
        params: list[tuple[str, str | int]] = [("state", each.value) for each in wanted.states]
        params += [(name, str(value)) for name, value in named.items() if value is not None]
        return self._http.get("/v1/runs", RunPage, [*params, ("limit", limit)])

    def every(self, wanted: Wanted = EVERYTHING, *, at_once: int = LARGEST_PAGE) -> Iterator[RunView]:
        """All runs that are wanted, from the newest to the oldest; page after page is asked for as they are taken."""
        after = None
        while True:
            page = self.page(wanted, after=after, limit=at_once)
            yield from page.runs
            if (after := page.next) is None:
                return

    def show(self, run_id: str) -> RunDetails:
        """See `Runs.show`."""
        return self._http.get(_path(run_id), RunDetails)

    def events(self, run_id: str, *, after: int = 0, limit: int = MOST_EVENTS) -> list[EventView]:
        """See `Runs.events`."""
        found: list[EventView] = []
        while len(found) < limit:
            most = min(MOST_EVENTS, limit - len(found))
            part = self._http.get(f"{_path(run_id)}/events", list[EventView], [("after", after), ("limit", most)])
            found += part
            if len(part) < most:
                break
            after = part[-1].number
        return found

    def follow_events(self, run_id: str, *, after: int = 0) -> Iterator[EventView]:
        """What happens to a run after the event of that number, as it happens, until the run has ended.

        A stream that breaks off is taken up where it stood, so that nothing is missed or told twice. Where the API
        stays away, the error comes when patience is over; whoever wants to go on calls again with the last number.

        Raises:
            UnknownRunError: There is no such run, or none any more.
            ApiUnreachableError: The API stays away.
        """
        path, failures = f"{_path(run_id)}/events", itertools.count(1)
        while True:
            trouble: RecoError = ApiUnreachableError(
                f"the stream of {run_id} ends again and again.", hint="`reco runs events` asks for the list instead."
            )
            asked_s = None
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                with self._http.stream(path, headers=headers) as parts:
                    for message in sent(parts):
                        failures = itertools.count(1)
                        if message.event == "end":
                            return
                        if message.event == "event":
                            event = self._http.parse(message.data.encode(), EventView)
                            after = event.number
                            yield event
            except ApiUnreachableError as error:
                trouble = error
            except AskAgainError as error:
                trouble, asked_s = error.trouble, error.wait_s
            self._http.wait(next(failures), trouble, asked_s)

    def log(self, run_id: str, *, attempt: int | None = None, offset: int = 0) -> LogChunk:
        """See `Runs.log`."""
        chosen = [] if attempt is None else [("attempt", attempt)]
        return self._http.get(f"{_path(run_id)}/log", LogChunk, [*chosen, ("offset", offset)])

    def checkpoints(self, run_id: str) -> list[CheckpointView]:
        """See `Runs.checkpoints`."""
        return self._http.get(f"{_path(run_id)}/checkpoints", list[CheckpointView])

    def stop(self, run_id: str) -> RunView:
        """See `Runs.stop`."""
        return self._http.post(f"{_path(run_id)}/stop", RunView)

    def resume(self, run_id: str, change: Change = NO_CHANGE) -> RunView:
        """See `Runs.resume`."""
        return self._http.post(f"{_path(run_id)}/resume", RunView, change)

    def fork(self, run_id: str, change: Change = NO_CHANGE, *, key: str | None = None) -> RunView:
        """See `Runs.fork`. As `submit`, it has a key in any case."""
        return self._http.post(f"{_path(run_id)}/fork", RunView, change, key=key or _new_key())

    def delete(self, run_id: str) -> Deleted:
        """See `Runs.delete`."""
        return self._http.parse(self._http.delete(_path(run_id), read_s=LONG_READ_S), Deleted)

    def board(self, run_id: str) -> SweepBoard:
        """See `Runs.board`."""
        return self._http.get(f"{_path(run_id)}/board", SweepBoard)

    def datasets(self, project: str | None = None) -> list[DatasetView]:
        """See `Runs.datasets`."""
        return self._http.get("/v1/datasets", list[DatasetView], [] if project is None else [("project", project)])


def _path(run_id: str) -> str:
    """The address of a run. An id that none can have is not sent: it might be the address of something else."""
    try:
        return f"/v1/runs/{quote(_ID.validate_python(run_id), safe='')}"
    except ValidationError as error:
        raise UnknownRunError(
            f"there is no run {run_id!r}: no run can be called so.", hint="`reco runs list` shows those there are."
        ) from error


def _new_key() -> str:
    return f"client-{uuid.uuid4()}"
