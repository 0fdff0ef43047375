"""Who looks at a page: a token in a cookie that no script can read; the API's gate has checked it before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from service.api.gate import COOKIE, Caller, caller_of
from service.api.roles import refusal, refuse
from service.api.slow import Slow
from service.contract.interface import Service
from service.contract.messages import Change, Identity, RunDetails
from service.control.control import Control
from service.web.rendering import page

_COOKIE_S = 30 * 24 * 3600
_LONGEST_SECRET = 200

router = APIRouter()


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is logged in.

    Attributes:
        request: As it came.
        by: Who sent it.
        service: What they can ask.
        control: The service itself: for the address of MLflow, and the audit of what was refused.
    """

    request: Request
    by: Caller
    service: Service
    control: Control

    @property
    def caller(self) -> Identity:
        """Who asks, as pages show it."""
        return self.by.identity

    def may(self, operation: str) -> bool:
        """Whether the caller's role allows an operation of the API."""
        return refusal(self.by, operation) is None

    def require(self, operation: str) -> None:
        """Refuse a caller whose role does not allow it, and note that in the audit.

        Raises:
            ForbiddenError: It does not.
        """
        if (why := refusal(self.by, operation)) is not None:
            refuse(self.control, self.by, operation, why)

    def check_data(self, run: RunDetails, change: Change) -> None:
        """Refuse a change that would make a job read what the API lets no spec name.

        Raises:
            DataNotAllowedError: It would.
            SpecError: The change has mistakes.
        """
        self.request.app.state.policy.check_change(run, change)

    @property
    def slow(self) -> Slow:
        """What only a few may ask for at once."""
        slow: Slow = self.request.app.state.slow
        return slow

    def page(self, template: str, /, *, status: int = 200, **values: object) -> HTMLResponse:
        """Render a template for this caller."""
        return page(self.request, template, status=status, visit=self, **values)


def visit(request: Request) -> Visit:
    """The request of somebody who is logged in, as a dependency.

    Raises:
        UnauthenticatedError: There is no cookie, or its token is no longer good.
    """
    control: Control = request.app.state.control
    by = caller_of(request)
    return Visit(request, by, control.service(by.identity), control)


Visited = Annotated[Visit, Depends(visit)]


@router.get("/login")
def ask_for_token(request: Request, to: str = "/runs") -> HTMLResponse:
    """The page that asks for a token."""
    return page(request, "login.html", to=_local(to))


@router.post("/login")
def log_in(
    request: Request,
    token: Annotated[str, Form(max_length=_LONGEST_SECRET)],
    to: Annotated[str, Form(max_length=2000)] = "/runs",
) -> Response:
    """Keep a token in a cookie, if it is a good one."""
    control: Control = request.app.state.control
    secret = token.strip()
    if not secret.isascii() or control.tokens_store.check(secret) is None:
        words = "that token is not known here, has expired, or was revoked."
        hint = "`reco tokens create` makes one; `reco up` keeps the first in its folder."
        return page(request, "login.html", status=401, to=_local(to), problem=words, hint=hint)
    answer = RedirectResponse(_local(to), 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, secret, max_age=_COOKIE_S, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout")
def log_out(request: Request) -> Response:
    """Forget the token."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


def login_address(request: Request) -> str:
    """Where to log in, and to come back from."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/login?to={quote(here)}" if request.method == "GET" and here != "/" else "/login"


def _local(address: str) -> str:
    r"""An address of this site, whatever was asked: `//elsewhere` and `/\elsewhere` lead to other hosts."""
    fine = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if fine else "/runs"
