"""Every error as `application/problem+json` (RFC 9457): what happened, what to do next, and a code for programs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from jobs.errors import RecoError, UserError
from jobs.spec import SpecError
from jobs.storage import UnreachableError
from jobs.tracking.errors import TrackingUnreachableError, UnknownModelError
from jobs.tracking.history import OvertakenError
from service.api.errors import (
    BusyError,
    ForbiddenError,
    SlowRequestError,
    TooLargeError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnknownTokenError,
)
from service.api.messages import FieldMistake, Problem
from service.backends.base import UnreachableBackendError
from service.models.registry import RefusedError
from service.runs.errors import (
    ConflictError,
    NotLeaderError,
    RunExistsError,
    SchemaError,
    StoreError,
    TransitionError,
    UnknownRunError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5

_STATUS: Sequence[tuple[type[RecoError], HTTPStatus]] = (
    (UnauthenticatedError, HTTPStatus.UNAUTHORIZED),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (UnknownRunError, HTTPStatus.NOT_FOUND),
    (UnknownModelError, HTTPStatus.NOT_FOUND),
    (UnknownTokenError, HTTPStatus.NOT_FOUND),
    (SlowRequestError, HTTPStatus.REQUEST_TIMEOUT),
    (RunExistsError, HTTPStatus.CONFLICT),
    (TransitionError, HTTPStatus.CONFLICT),
    (ConflictError, HTTPStatus.CONFLICT),
    (NotLeaderError, HTTPStatus.CONFLICT),
    (RefusedError, HTTPStatus.CONFLICT),
    (OvertakenError, HTTPStatus.CONFLICT),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (TooManyRequestsError, HTTPStatus.TOO_MANY_REQUESTS),
    (BusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (SchemaError, HTTPStatus.SERVICE_UNAVAILABLE),
    (UnreachableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (UnreachableBackendError, HTTPStatus.SERVICE_UNAVAILABLE),
    (TrackingUnreachableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (UserError, HTTPStatus.UNPROCESSABLE_ENTITY),  # after those that are more particular
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RecoError, HTTPStatus.INTERNAL_SERVER_ERROR),
)
_log = logging.getLogger("reco.api")


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    code: str,
    hint: str | None = None,
    errors: Sequence[FieldMistake] = (),
    headers: dict[str, str] | None = None,
    request_id: str | None = None,
) -> Response:
    """An answer that says why there is no other."""
    told = Problem(
        title=status.phrase,
        status=status,
        detail=detail,
        hint=hint,
        code=code,
        errors=list(errors),
        request_id=request_id,
    )
    return Response(told.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def in_words(error: RecoError) -> tuple[str, str | None]:
    """What whoever asks is told of an error, and what to do next.

    Where the database is and what its driver says is for the log only: the caller may be anybody.
    """
    if type(error) is StoreError or isinstance(error, SchemaError):
        return "the service cannot use its database now.", "Ask again in a moment; the log of the service says more."
    return error.message, error.hint


def problem_of(error: RecoError) -> Response:
    """The answer to something that this project can explain."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    headers: dict[str, str] = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="reco"'
    elif isinstance(error, TooManyRequestsError):
        headers["Retry-After"] = str(max(1, math.ceil(error.wait_s)))
    elif status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("%s: %s", type(error).__name__, error)
    mistakes = []
    if isinstance(error, SpecError):
        mistakes = [FieldMistake(path=each.path, line=each.line, message=each.message) for each in error.mistakes]
    detail, hint = in_words(error)
    return problem(status, detail, code=type(error).__name__, hint=hint, errors=mistakes, headers=headers)


def unexpected(request_id: str) -> Response:
    """The answer to a mistake in this code: what it was stays in the log, under an id that the client is told."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "something went wrong here that should not have.",
        code="InternalError",
        hint=f"The service's log says more under {request_id}.",
        request_id=request_id,
    )


def explain_errors(app: FastAPI) -> None:
    """Let an application answer its errors with problems."""
    app.add_exception_handler(RecoError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(DataError, _not_kept)


async def _known(_: Request, error: Exception) -> Response:
    assert isinstance(error, RecoError)
    return problem_of(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was given is not repeated: it may be a secret in the wrong place.
    found = [
        FieldMistake(path=".".join(map(str, each["loc"])), message=str(each["msg"]).removeprefix("Value error, "))
        for each in error.errors()
    ]
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"the request has {'1 mistake' if len(found) == 1 else f'{len(found)} mistakes'}.",
        code="InvalidRequest",
        hint="`/openapi.json` describes what it may hold.",
        errors=found,
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.title().replace(" ", "").replace("-", "")
    detail = {404: "there is nothing at this address.", 405: "this address does not take that method."}.get(
        status, str(error.detail)
    )
    headers = dict(error.headers or {})
    return problem(status, detail, code=code, hint="`/openapi.json` lists what there is.", headers=headers)


async def _not_kept(_: Request, error: Exception) -> Response:
    _log.info("the database refused a value: %s", type(error.__cause__).__name__)
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "the request holds a value that the database cannot keep.",
        code="InvalidRequest",
        hint="Is there a character 0 in a text?",
    )
