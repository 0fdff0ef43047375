"""What every request goes through: an id, limits of size and time, safe headers, figures, and an answer in any case."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.errors import RecoError
from service.api.errors import BusyError, SlowRequestError, TooLargeError
from service.api.metrics import Requests
from service.api.problems import problem, problem_of, unexpected
from service.api.settings import ApiSettings
from service.control.control import version

_log = logging.getLogger("reco.api")
_BAD = HTTPStatus.BAD_REQUEST
_VERSION = version()

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_CSP_DATA = "default-src 'none'; frame-ancestors 'none'"
_CSP_PAGES = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_DATA = ("/v1/", "/health/", "/metrics", "/openapi.json")


class Frame:
    """The outermost layer, in plain ASGI: it costs a request some microseconds.

    Args:
        app: What is inside.
        requests: Counts them.
        settings: Limits.
    """

    def __init__(self, app: ASGIApp, *, requests: Requests, settings: ApiSettings) -> None:
        self._app, self._requests, self._settings = app, requests, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._settings)
        try:
            if b"%00" in scope["raw_path"] or b"%00" in scope["query_string"]:
                await exchange.answer(problem(_BAD, "there is a character 0 in the address.", code="BadRequest"))
                return
            exchange.check_size()
            await self._app(scope, exchange.receive, exchange.send)
        except RecoError as error:  # of the gate, or of a body that was cut off
            await exchange.answer(problem_of(error))
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except Exception:  # noqa: BLE001 - a mistake of ours: the client gets an id, the log gets the rest
            _log.exception("request %s, %s %s", exchange.id, scope["method"], exchange.route)
            await exchange.answer(unexpected(exchange.id))
        finally:
            exchange.close()
            seconds = time.perf_counter() - exchange.began
            self._requests.note(exchange.route, scope["method"], exchange.status, seconds)
            _log.debug(
                "%s %s %s %d in %.1f ms", exchange.id, scope["method"], exchange.route, exchange.status, 1000 * seconds
            )


class _Exchange:
    """One request and its answer, of which there is exactly one."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: ApiSettings) -> None:
        self.began, self.id = time.perf_counter(), secrets.token_hex(8)
        self.status = 499  # what is counted where the client left before there was an answer
        self._scope, self._receive, self._send, self._settings = scope, receive, send, settings
        self._started, self._given_up, self._complete = False, False, False
        self._size = 0
        self._timer = asyncio.get_running_loop().call_later(settings.timeout_s, self._expire)
        self._answering: asyncio.Task[None] | None = None

    @property
    def route(self) -> str:
        """What was asked for, without what is particular to this request."""
        return str(getattr(self._scope.get("route"), "path", "none"))

    def check_size(self) -> None:
        """Refuse a body that says itself that it is too large, before any of it is read."""
        announced = Headers(scope=self._scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._settings.max_body:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._size > self._settings.max_body:
                # Answered here: FastAPI would take whatever is raised for a body that cannot be parsed.
                await self.answer(problem_of(self._too_large()))
                raise ClientDisconnect
        return message

    async def send(self, message: Message) -> None:
        """The next part of the application's answer; dropped where another was given meanwhile."""
        if not self._given_up:
            await self._emit(message)

    async def answer(self, response: ASGIApp) -> None:
        """Answer instead of the application, if it has not begun to; what it still says is dropped."""
        if not self._started:
            self._given_up = True
            await response(self._scope, self._receive, self._emit)

    def close(self) -> None:
        """The application has done what it could."""
        self._timer.cancel()

    async def _emit(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            self._dress(MutableHeaders(raw=message["headers"]))
        await self._send(message)

    def _dress(self, headers: MutableHeaders) -> None:
        path = self._scope["path"]
        for name, value in _HEADERS.items():
            headers[name] = value
        data = path.startswith(_DATA)
        headers.setdefault("Content-Security-Policy", _CSP_DATA if data else _CSP_PAGES)
        if data:
            headers["Cache-Control"] = "no-store"
        headers["X-Request-ID"] = self.id
        headers["X-Reco-Version"] = _VERSION

    def _expire(self) -> None:
        """Time is over. A change goes on: to give one up halfway, and to say nothing, would be worse."""
        if self._started or (self._complete and self._scope["method"] not in ("GET", "HEAD")):
            return
        error: RecoError = SlowRequestError("the body did not arrive in time.", hint="Send it again.")
        if self._complete or self._scope["method"] in ("GET", "HEAD"):
            error = BusyError("that took too long.", hint="Ask again later, or for less.")
        self._answering = asyncio.ensure_future(self.answer(problem_of(error)))

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"a request may have at most {self._settings.max_body:,} bytes.", hint="A spec is text, and short."
        )
