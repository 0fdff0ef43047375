"""Why a request had no answer, in words that never hold the request, which has the token in it."""

from __future__ import annotations

import ssl

import httpx

_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def is_hopeless(error: httpx.TransportError) -> bool:
    """Whether it will be the same the next time."""
    return isinstance(error, _HOPELESS) or _certificate(error) is not None


def _certificate(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def reason(error: httpx.TransportError) -> str:
    """Why, in the system's words."""
    if (refused := _certificate(error)) is not None:
        return f"its certificate is not accepted ({refused.verify_message})"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.strerror:
            return current.strerror.lower()
        current = current.__cause__ or current.__context__
    return "the connection broke off" if isinstance(error, httpx.RemoteProtocolError) else type(error).__name__


def place(response: httpx.Response) -> str:
    """Where an answer sends its reader, without what may be secret in it."""
    target = response.headers.get("Location", "")
    try:
        return str(httpx.URL(target).copy_with(query=None, fragment=None, userinfo=b""))
    except httpx.InvalidURL:
        return "an address that is none"


def release(version: str | None) -> tuple[int, ...] | None:
    """Major and minor."""
    parts = (version or "").split(".")[:2]
    return tuple(map(int, parts)) if len(parts) == 2 and all(each.isdigit() for each in parts) else None
