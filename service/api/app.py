"""The application: routes, and what stands before them."""

from __future__ import annotations

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from service.api.documents import DESCRIPTION, PROBLEMS
from service.api.events import Streams
from service.api.frame import Frame
from service.api.gate import Gate, KnownTokens
from service.api.health import Parts
from service.api.metrics import Requests, StoreCollector
from service.api.openapi import ROUTERS, document
from service.api.policy import DataPolicy
from service.api.problems import explain_errors
from service.api.settings import ApiSettings
from service.api.slow import Slow
from service.control.control import Control, version


def create_app(control: Control, settings: ApiSettings | None = None) -> FastAPI:
    """The API over an open service, with the web pages.

    Args:
        control: The service; whoever made it closes it.
        settings: Rules and limits; those of the environment by default.

    Raises:
        UserError: What the environment says cannot be.
    """
    settings = settings or ApiSettings.from_environment()
    registry = CollectorRegistry()
    known = KnownTokens(control, settings.token_cache_s)
    app = FastAPI(
        title="reco",
        version=version(),
        description=DESCRIPTION,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the request did
        responses=PROBLEMS,
        middleware=[
            Middleware(Frame, requests=Requests(registry), settings=settings),
            Middleware(Gate, control=control, known=known, settings=settings),
        ],
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it costs each request more than all else
    )
    registry.register(StoreCollector(control))
    app.state.control, app.state.settings, app.state.registry = control, settings, registry
    app.state.known, app.state.policy, app.state.slow = known, DataPolicy(settings), Slow()
    app.state.streams, app.state.parts = Streams(control, known, settings), Parts(control)
    for router in ROUTERS:
        app.include_router(router)
    explain_errors(app)

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to change it
    from service.web.app import mount  # late: the pages import the API

    mount(app, control)
    return app
