"""Who calls: a token in the header or in the web page's cookie, checked before anything else of a request is read."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import CrossSiteError, TooManyRequestsError, UnauthenticatedError
from service.api.rate import RateLimit
from service.api.settings import ApiSettings
from service.contract.messages import Identity
from service.control.control import Control, version
from service.runs.access import Token

COOKIE = "reco_token"
"""Where the web page keeps its token: HttpOnly, SameSite=Strict."""
_CALLER = "reco.caller"
_MOST_CACHED = 4096
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        identity: For the service.
        token_id: Of the token it was sent with.
        secret: That token; to look later whether it is still good.
    """

    identity: Identity
    token_id: str
    secret: str = field(repr=False)


class KnownTokens:
    """Checks tokens, and asks the database about each only every few seconds.

    Only good ones are remembered: one that is refused is asked about each time, so that a new token counts at once, and
    guesses cannot fill the memory.

    Args:
        control: Whose tokens they are.
        seconds: How long one is taken for good; it may have been revoked by another process meanwhile.
    """

    def __init__(self, control: Control, seconds: float) -> None:
        self._tokens, self._clock = control.tokens_store, control.database.clock
        self._seconds = seconds
        self._known: OrderedDict[bytes, tuple[float, Token]] = OrderedDict()

    def knows(self, secret: str) -> bool:
        """Whether it was good when it was last asked about, however long ago that was."""
        return _digest(secret) in self._known

    def recall(self, secret: str) -> Token | None:
        """A token that was found good a moment ago."""
        until, token = self._known.get(_digest(secret), (0.0, None))
        if token is None or until <= time.monotonic() or (token.expires is not None and token.expires <= self._clock()):
            return None
        return token

    async def check(self, secret: str) -> Token | None:
        """The token of a secret, if it is good."""
        token = await run_in_threadpool(self._tokens.check, secret)
        digest = _digest(secret)
        self._known.pop(digest, None)
        if token is not None:
            self._known[digest] = (time.monotonic() + self._seconds, token)
            if len(self._known) > _MOST_CACHED:
                self._known.popitem(last=False)
        return token

    def forget(self) -> None:
        """Ask anew about every token: one was revoked."""
        for digest, (_, token) in list(self._known.items()):  # requests in other threads go on meanwhile
            self._known[digest] = (0.0, token)


class Gate:
    """Lets requests pass whose caller is known, and that come no more often than they may.

    It stands before routing: a stranger's body is not read, and a stranger is not told which addresses there are.

    Args:
        app: What is behind it.
        control: The service.
        known: Checks tokens.
        settings: How often somebody may ask.
    """

    def __init__(self, app: ASGIApp, *, control: Control, known: KnownTokens, settings: ApiSettings) -> None:
        self._app, self._known = app, known
        self._open = ("/metrics",) if settings.metrics_open else ()
        self._by_token, self._by_address = (
            RateLimit(settings.per_minute),
            RateLimit(settings.anonymous_per_minute),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its caller."""
        if scope["type"] == "http" and not scope["path"].startswith("/health/"):
            scope[_CALLER] = await self._admitted(scope)
        await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope) -> Caller | None:
        headers = Headers(scope=scope)
        address = scope["client"][0] if scope.get("client") else "unknown"
        secret, by_cookie = _secret_of(headers)
        token = None if secret is None else self._known.recall(secret)
        if token is None:
            # Counted before it is checked: who guesses is not to keep the database busy. A token that was good a moment
            # ago is no guess: its holder is not to be locked out by strangers, or by many others, behind one address.
            if secret is None or not self._known.knows(secret):
                _pass(self._by_address, address, "without a token that is good")
            token = None if secret is None else await self._known.check(secret)
        if token is None or secret is None:
            if _needs_token(scope["path"]) and scope["path"] not in self._open:
                raise UnauthenticatedError(
                    "there is no token with the request."
                    if secret is None
                    else "the token is not known, or has ended.",
                    hint="Send `Authorization: Bearer TOKEN`; `reco tokens create` makes one.",
                )
        else:
            _pass(self._by_token, token.id, "with your token")
        if scope["method"] not in _SAFE and (by_cookie or secret is None):
            _refuse_other_sites(headers)
        if token is None or secret is None:
            return None
        identity = Identity(owner=token.owner, role=token.role, project=token.project, version=_VERSION)
        return Caller(identity, token.id, secret)


def caller_of(request: Request) -> Caller:
    """Who sent a request.

    Raises:
        UnauthenticatedError: Nobody knows; only pages outside /v1 are reached without a token.
    """
    caller = request.scope.get(_CALLER)
    if caller is None:
        raise UnauthenticatedError("there is no token with the request.", hint="Sign in with one.")
    assert isinstance(caller, Caller)
    return caller


def _secret_of(headers: Headers) -> tuple[str | None, bool]:
    """The token of a request, and whether it came as a cookie, which browsers send without being asked."""
    given = headers.get("authorization")
    if given is not None:
        scheme, _, secret = given.partition(" ")
        return (secret.strip() if scheme.lower() == "bearer" else ""), False
    # Not by `SimpleCookie`: it gives up at a cookie that it finds odd, and other applications of the host set such.
    found = cookie_parser(headers.get("cookie", "")).get(COOKIE)
    return (None, False) if found is None else (found, True)


def _refuse_other_sites(headers: Headers) -> None:
    """Refuse what another site's page sends: no other can make a browser say that it comes from here."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    same = site == "same-origin" if site is not None else urlsplit(origin or "").netloc == headers.get("host", "-")
    if not same:
        raise CrossSiteError(
            "the request does not come from this service's own page.",
            hint="Programs send `Authorization: Bearer TOKEN` and no cookie.",
        )


def _needs_token(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/v1", "/metrics")


def _pass(limit: RateLimit, who: str, how: str) -> None:
    wait = limit.take(who)
    if wait > 0.0:
        raise TooManyRequestsError(f"there were too many requests {how}.", wait_s=wait)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


_VERSION = version()
