"""Runs and sweeps over HTTP."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import TypeAdapter

from service.api.documents import EVENT_STREAM, STREAMED, SUBMISSION
from service.api.events import Streams
from service.api.gate import caller_of
from service.api.policy import DataPolicy
from service.api.queries import only_known
from service.api.roles import Asked, authorised
from service.api.slow import Slow
from service.contract.interface import Service, Wanted
from service.contract.messages import (
    Change,
    CheckpointView,
    DatasetView,
    Deleted,
    EventView,
    LogChunk,
    Plan,
    Project,
    RunDetails,
    RunId,
    RunPage,
    RunView,
    SweepBoard,
    Told,
)
from service.runs.listing import LARGEST_PAGE
from service.runs.states import Condition, Kind, State

router = APIRouter(prefix="/v1", dependencies=[Depends(authorised), Depends(only_known)], tags=["runs"])

_JSON = "application/json"
_EVENTS = TypeAdapter(list[EventView])
_LARGEST = 2**31 - 1  # what every database can compare with
Id = Annotated[
    RunId, Path(description="Id of the run, as `run_id` of its submission.", examples=["photos-20261123-2210"])
]
Word = Annotated[str, Query(min_length=1, max_length=200)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]+$",
        max_length=200,
        description="Chosen by the client; a request that is sent again with it is carried out once.",
    ),
]


class Choice:
    """Which runs to list, as the query of an address says it."""

    def __init__(
        self,
        state: Annotated[list[State] | None, Query(max_length=8, description="One of these.")] = None,
        name: Annotated[Word | None, Query(description="The whole name: `*` is anything, `?` one character.")] = None,
        project: Annotated[Project | None, Query()] = None,
        owner: Annotated[Word | None, Query()] = None,
        condition: Annotated[Condition | None, Query(description="This holds.")] = None,
        after: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
    ) -> None:
        self.after, self.limit = after, limit
        self._choice = {"name": name, "project": project, "owner": owner, "condition": condition}
        self._states = state or []

    def page(self, service: Service, path: str, kind: Kind | None) -> Response:
        """The page that is wanted; the address of the next one is in the header `Link`, too."""
        wanted = Wanted(states=self._states, kind=kind, **self._choice)  # type: ignore[arg-type]  # by name
        page = service.runs.page(wanted, after=self.after, limit=self.limit)
        headers = {}
        if page.next is not None:
            query: list[tuple[str, object]] = [("state", each) for each in self._states]
            query += [(name, value) for name, value in self._choice.items() if value is not None]
            query += [("kind", kind)] if kind is not None and path.endswith("runs") else []
            address = f"{path}?{urlencode([*query, ('limit', self.limit), ('after', page.next)])}"
            headers["Link"] = f'<{address}>; rel="next"'
        return _told(page, headers)


@router.get("/runs", operation_id="list_runs", summary="Runs and sweeps, the newest first", response_model=RunPage)
def list_runs(
    service: Asked,
    choice: Annotated[Choice, Depends()],
    kind: Annotated[Kind | None, Query(description="Runs or sweeps.")] = None,
) -> Response:
    """How many are in each state comes with the first page only."""
    return choice.page(service, "/v1/runs", kind)


@router.get("/sweeps", operation_id="list_sweeps", summary="Sweeps, the newest first", response_model=RunPage)
def list_sweeps(service: Asked, choice: Annotated[Choice, Depends()]) -> Response:
    """The same as `/v1/runs?kind=sweep`."""
    return choice.page(service, "/v1/sweeps", "sweep")


@router.post("/plans", operation_id="plan_run", summary="What a submission would do")
def plan_run(service: Asked, request: Request, submission: SUBMISSION) -> Plan:
    """Nothing is stored."""
    _policy(request).check(submission)
    with _slow(request).data.place():
        return service.runs.plan(submission)


@router.post("/runs", operation_id="submit_run", summary="Submit a run or a sweep", status_code=201)
def submit_run(
    service: Asked, request: Request, response: Response, submission: SUBMISSION, key: Key = None
) -> RunView:
    """It is stored, and started as soon as its turn comes."""
    _policy(request).check(submission)
    run = service.runs.submit(submission, key=key)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run


@router.get("/runs/{run_id}", operation_id="show_run", summary="One run", response_model=RunDetails)
def show_run(service: Asked, run_id: Id) -> Response:
    """With its spec, its attempts, and how it ended."""
    return _told(service.runs.show(run_id))


@router.delete("/runs/{run_id}", operation_id="delete_run", summary="Delete a run that has ended, with its folder")
def delete_run(service: Asked, run_id: Id) -> Deleted:
    """What is registered in MLflow stays."""
    return service.runs.delete(run_id)


@router.post("/runs/{run_id}/stop", operation_id="stop_run", summary="Let a run save and stop")
def stop_run(service: Asked, run_id: Id) -> RunView:
    """Asking again changes nothing."""
    return service.runs.stop(run_id)


@router.post("/runs/{run_id}/resume", operation_id="resume_run", summary="Let a run go on where it stood")
def resume_run(service: Asked, request: Request, run_id: Id, change: Change | None = None) -> RunView:
    """Of one that failed or was stopped; what changes must leave the experiment as it was."""
    change = change or Change()
    if change.overrides:  # reading the run takes time
        _policy(request).check_change(service.runs.show(run_id), change)
    return service.runs.resume(run_id, change)


@router.post(
    "/runs/{run_id}/fork", operation_id="fork_run", summary="A new run from another's weights", status_code=201
)
def fork_run(
    service: Asked, request: Request, response: Response, run_id: Id, change: Change | None = None, key: Key = None
) -> RunView:
    """It begins with the newest checkpoint's weights; queues, optimizer and step are new."""
    change = change or Change()
    if change.overrides:
        _policy(request).check_change(service.runs.show(run_id), change)
    run = service.runs.fork(run_id, change, key=key)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run


@router.get(
    "/runs/{run_id}/events",
    operation_id="list_events",
    summary="What happened to a run, as a list or as a stream",
    response_model=list[EventView],
    responses=STREAMED,
)
def list_events(
    service: Asked,
    request: Request,
    run_id: Id,
    after: Annotated[int, Query(ge=0, le=_LARGEST, description="Number of the last event that is known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many; of a list only.")] = 1000,
    last_event_id: Annotated[str | None, Header(max_length=20, description="Of a stream that was cut off.")] = None,
) -> Response:
    """With `Accept: text/event-stream` it is told as it happens, until the run has ended.

    `event` is what happened, with its number as id; `run` is the run whenever its progress is new; `end` is the last
    message, with the run as it is then.
    """
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return Response(_EVENTS.dump_json(service.runs.events(run_id, after=after, limit=limit)), media_type=_JSON)
    service.runs.events(run_id, limit=1)  # an unknown run is a problem, and no stream
    known = min(int(last_event_id), _LARGEST) if last_event_id is not None and last_event_id.isdecimal() else after
    streams: Streams = request.app.state.streams
    return streams.open(service, caller_of(request), run_id, after=known)


@router.get(
    "/runs/{run_id}/log", operation_id="read_log", summary="What an attempt has printed", response_model=LogChunk
)
def read_log(
    service: Asked,
    run_id: Id,
    attempt: Annotated[int | None, Query(ge=1, le=_LARGEST, description="The last one by default.")] = None,
    offset: Annotated[int, Query(ge=0, le=2**53, description="0, or `next_offset` of the part before.")] = 0,
) -> Response:
    """In parts, in whole lines; an empty one says that there is no more for now."""
    return _told(service.runs.log(run_id, attempt=attempt, offset=offset))


@router.get("/runs/{run_id}/checkpoints", operation_id="list_checkpoints", summary="What is saved of a run")
def list_checkpoints(service: Asked, run_id: Id) -> list[CheckpointView]:
    """The newest first."""
    return service.runs.checkpoints(run_id)


@router.get("/runs/{run_id}/board", operation_id="show_board", summary="The leaderboard of a sweep")
def show_board(service: Asked, run_id: Id) -> SweepBoard:
    """The best trial first."""
    return service.runs.board(run_id)


@router.get("/datasets", operation_id="list_datasets", summary="Data sets that runs were trained on")
def list_datasets(
    service: Asked, request: Request, project: Annotated[Project | None, Query()] = None
) -> list[DatasetView]:
    """The last used first."""
    with _slow(request).data.place():
        return service.runs.datasets(project)


def _told(message: Told, headers: dict[str, str] | None = None) -> Response:
    """A message as it is: FastAPI would take a thread once more to look whether it is one. For what is asked often."""
    return Response(message.model_dump_json(), headers=headers, media_type=_JSON)


def _policy(request: Request) -> DataPolicy:
    policy: DataPolicy = request.app.state.policy
    return policy


def _slow(request: Request) -> Slow:
    slow: Slow = request.app.state.slow
    return slow
