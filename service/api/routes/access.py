"""Tokens, the audit, and who the caller is, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from service.api.errors import UnknownTokenError
from service.api.gate import KnownTokens, caller_of
from service.api.messages import AuditPage, AuditView
from service.api.queries import only_known
from service.api.roles import Asked, authorised
from service.contract.messages import Identity, IssuedToken, NewToken, TokenView
from service.control.control import Control

router = APIRouter(prefix="/v1", dependencies=[Depends(authorised), Depends(only_known)], tags=["access"])


@router.get("/me", operation_id="me", summary="Who the service takes you for")
async def me(request: Request) -> Identity:
    """Owner, role and project of the token."""
    return caller_of(request).identity


@router.get("/tokens", operation_id="list_tokens", summary="All tokens, without their secrets")
def list_tokens(service: Asked) -> list[TokenView]:
    """The oldest first."""
    return service.tokens.issued()


@router.post("/tokens", operation_id="issue_token", summary="Make a token", status_code=201)
def issue_token(service: Asked, new: NewToken) -> IssuedToken:
    """Its secret is told now and never again."""
    return service.tokens.issue(new)


@router.delete("/tokens/{token_id}", operation_id="revoke_token", summary="End a token for good", status_code=204)
def revoke_token(service: Asked, request: Request, token_id: Annotated[str, Path(pattern=r"^[0-9a-f]{1,32}$")]) -> None:
    """404 where there is none, or it was ended already. Other processes of the service notice within seconds."""
    revoked = service.tokens.revoke(token_id)
    known: KnownTokens = request.app.state.known
    known.forget()
    if not revoked:
        raise UnknownTokenError(
            f"there is no token {token_id} that could be ended.", hint="`reco tokens list` shows those there are."
        )


@router.get("/audit", operation_id="list_audit", summary="Who did what")
def list_audit(
    request: Request,
    actor: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    target: Annotated[str | None, Query(min_length=1, max_length=300)] = None,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AuditPage:
    """The latest first."""
    control: Control = request.app.state.control
    found = control.audit.entries(actor=actor, target=target, before=before, limit=limit)
    entries = [
        AuditView(
            number=each.number, at=each.at, actor=each.actor, action=each.action, target=each.target, data=each.data
        )
        for each in found
    ]
    return AuditPage(entries=entries, next=entries[-1].number if len(entries) == limit else None)
