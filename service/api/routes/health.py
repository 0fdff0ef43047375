"""Whether the service lives and can work, its figures, and the description of the API; outside /v1."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.health import Parts
from service.api.messages import Health
from service.api.metrics import exposition
from service.api.roles import authorised
from service.api.settings import ApiSettings

router = APIRouter(tags=["health"])


async def _may_read(request: Request) -> None:
    settings: ApiSettings = request.app.state.settings
    if not settings.metrics_open:
        await authorised(request)


@router.get("/health/live", operation_id="is_alive", summary="Whether the process answers")
async def is_alive() -> dict[str, str]:
    """For a supervisor that starts it again where it does not."""
    return {"status": "ok"}


@router.get("/health/ready", operation_id="is_ready", summary="Whether the service can work")
def is_ready(request: Request, response: Response) -> Health:
    """503 while the database does not answer; other parts are named, and decide nothing."""
    parts: Parts = request.app.state.parts
    found = parts.look()
    response.status_code = 200 if found.ready else 503
    return found


@router.get(
    "/metrics",
    operation_id="read_metrics",
    summary="Figures for Prometheus",
    dependencies=[Depends(_may_read)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_metrics(request: Request) -> Response:
    """Runs by state and condition, the leader's lease, requests and how long they took."""
    return Response(exposition(request.app.state.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
