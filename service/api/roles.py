"""Who may do what: the least role for each operation, in one table, and the dependency that asks it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, NoReturn

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from service.api.errors import ForbiddenError
from service.api.gate import Caller, caller_of
from service.contract.interface import Service
from service.control.control import Control
from service.runs.schema import JsonObject


class Role(IntEnum):
    """What the holder of a token is; each may do what those before it may."""

    VIEWER = 1
    RUNNER = 2
    PROMOTER = 3
    ADMIN = 4

    def __str__(self) -> str:
        return self.name.lower()


LEAST: Mapping[str, Role] = {
    "me": Role.VIEWER,
    "list_runs": Role.VIEWER,
    "show_run": Role.VIEWER,
    "list_events": Role.VIEWER,
    "read_log": Role.VIEWER,
    "list_checkpoints": Role.VIEWER,
    "show_board": Role.VIEWER,
    "list_sweeps": Role.VIEWER,
    "list_datasets": Role.VIEWER,
    "list_models": Role.VIEWER,
    "show_model": Role.VIEWER,
    "show_model_version": Role.VIEWER,
    "show_model_history": Role.VIEWER,
    "read_metrics": Role.VIEWER,
    "plan_run": Role.RUNNER,  # it looks into the storage that the spec names
    "submit_run": Role.RUNNER,
    "stop_run": Role.RUNNER,
    "resume_run": Role.RUNNER,
    "fork_run": Role.RUNNER,
    "delete_run": Role.RUNNER,
    "promote_model": Role.PROMOTER,
    "roll_back_model": Role.PROMOTER,
    "list_tokens": Role.ADMIN,
    "issue_token": Role.ADMIN,
    "revoke_token": Role.ADMIN,
    "list_audit": Role.ADMIN,
}
"""By operation id. An operation that is not here can be called by nobody."""

ALL_PROJECTS = frozenset({"list_audit"})
"""Operations that tell of every project, so that a token for one of them is not enough."""


async def authorised(request: Request) -> None:
    """Let the caller of a route pass, or not; a refusal is in the audit.

    Raises:
        UnauthenticatedError: Nobody is known to call.
        ForbiddenError: The caller's role or project does not reach.
    """
    caller, operation = caller_of(request), _operation(request)
    if (why := refusal(caller, operation)) is not None:
        await run_in_threadpool(refuse, request.app.state.control, caller, operation, why)


async def service_of(request: Request) -> Service:
    """The service, for whoever calls."""
    control: Control = request.app.state.control
    return control.service(caller_of(request).identity)


Asked = Annotated[Service, Depends(service_of)]
"""Of an endpoint: the service, for its caller."""


def refusal(caller: Caller, operation: str) -> str | None:
    """Why a caller may not do something; None where it may."""
    least, given = LEAST.get(operation), caller.identity.role
    role = Role[given.upper()] if given.upper() in Role.__members__ else None
    if least is None or role is None or role < least:
        return f"this takes the role {least or 'of nobody'}, and your token has {given}."
    if operation in ALL_PROJECTS and caller.identity.project is not None:
        return f"this takes a token for all projects, and yours is for {caller.identity.project}."
    return None


def refuse(control: Control, caller: Caller, operation: str, why: str) -> NoReturn:
    """Note a refusal in the audit, and tell it.

    Raises:
        ForbiddenError: Always.
    """
    told: JsonObject = {"role": caller.identity.role, "token": caller.token_id}
    control.audit.add(caller.identity.owner, "refused", operation, told)
    raise ForbiddenError(why, hint="Somebody with role admin can issue you another token.")


def _operation(request: Request) -> str:
    route = request.scope["route"]
    return str(route.operation_id)
