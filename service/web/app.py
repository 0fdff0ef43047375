"""Puts the pages into the application of the API, beside its routes and with errors of their own look."""

from __future__ import annotations

import os
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount
from starlette.types import Scope

from jobs.errors import RecoError
from service.api.errors import UnauthenticatedError
from service.api.policy import DataPolicy
from service.api.problems import in_words, problem_of
from service.api.slow import Slow
from service.control.control import Control
from service.web import actions, champions, comparing, datasets, models, runs, session, sweeps
from service.web.curves import Curves
from service.web.reading import Readers
from service.web.rendering import STATIC, page
from service.web.session import login_address, visit

PLACES = frozenset({"", "login", "logout", "runs", "sweeps", "models", "datasets", "compare", "static"})
"""First parts of the addresses that are pages; all others are the API's, also where there is nothing."""


class Pages(Mount):
    """Takes the addresses of pages, and leaves all others to the routes beside it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for a page."""
        if scope["type"] != "http" or scope["path"].split("/")[1] not in PLACES:
            return Match.NONE, {}
        return super().matches(scope)


class Static(StaticFiles):
    """Styles and scripts; a browser asks whether they have changed each time, since they belong to one version."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The answer with a file."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response


def mount(app: FastAPI, control: Control) -> None:
    """Serve the pages from an application whose gate says who calls.

    Args:
        app: The API's; pages are the last of its routes.
        control: What they show.
    """
    app.router.routes.append(Pages("", pages(control, app.state.policy, app.state.slow), name="pages"))


def pages(control: Control, policy: DataPolicy, slow: Slow) -> FastAPI:
    """The pages as an application of their own.

    Args:
        control: What they show.
        policy: Which data a form may make a run read.
        slow: What only a few may ask for at once, here and in the API.
    """
    app = FastAPI(
        title="reco",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.control, app.state.policy, app.state.slow = control, policy, slow
    app.state.curves, app.state.readers = Curves(), Readers()
    for part in (session, runs, actions, sweeps, models, champions, comparing, datasets):
        app.include_router(part.router)
    app.mount("/static", Static(directory=STATIC), name="static")
    app.add_exception_handler(RecoError, _explained)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _explained(request: Request, error: Exception) -> Response:
    assert isinstance(error, RecoError)
    status = problem_of(error).status_code
    if status == HTTPStatus.UNAUTHORIZED:
        return RedirectResponse(login_address(request), 303)
    return _told(request, status, *in_words(error))


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is no such page.", 405: "this page cannot be asked for like that."}
    problem = words.get(error.status_code, str(error.detail))
    return _told(request, error.status_code, problem, "Start from the list of runs.")


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
    return _told(request, 422, f"the address or form has mistakes: {said}.", "Go back and correct it.")


def _unexpected(request: Request, error: Exception) -> Response:
    # It is raised again after this, and so reaches the log of the API's frame, with the id in the answer's header.
    return _told(request, 500, "something went wrong here that should not have.", "The log of the service says what.")


def _told(request: Request, status: int, problem: str, hint: str | None) -> Response:
    try:
        who = visit(request)
    except UnauthenticatedError:
        who = None
    return page(request, "error.html", status=status, problem=problem, hint=hint, visit=who)
