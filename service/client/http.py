"""Requests to the API: repeated where that does no harm, answered by a message or a typed error."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from jobs.errors import RecoError
from service.client.address import Address
from service.client.errors import ApiError, ApiUnreachableError, OtherVersionError, error_of, problem_in
from service.client.patience import Patience, retry_after
from service.client.reasons import is_hopeless, place, reason, release

Answer = TypeVar("Answer")
Params = Sequence[tuple[str, str | int]]

VERSION_HEADER = "X-Reco-Version"
READ_S = 60.0
"""Longest wait for an answer."""
LONG_READ_S = 1800.0
"""The same where gates are asked or a folder is deleted."""
STREAM_READ_S = 60.0
"""Longest silence of a stream; the API says every 15 s that it is there."""
_CONNECT_S = 10.0
_SILENT_S = 1.0
_IDLE_S = (
    2.0  # servers close idle connections after 5 s, perhaps just when a request is sent that is not to be repeated
)
_AGAIN = frozenset({429, 502, 503, 504})
_UNKNOWN_ADDRESS = frozenset({"NotFound", "MethodNotAllowed"})
_log = logging.getLogger("reco.client")


class AskAgainError(RecoError):
    """A stream was refused for now. Whoever takes up streams catches it: callers are told only the error in it.

    Attributes:
        trouble: Why, for where there is no patience left.
        wait_s: After how long the server says that one may ask again; None where it does not say.
    """

    def __init__(self, trouble: RecoError, wait_s: float | None) -> None:
        super().__init__(trouble.message, hint=trouble.hint)
        self.trouble, self.wait_s = trouble, wait_s


class Http:
    """One API, over connections that are kept. Safe to be used from many threads.

    Args:
        address: Where it is.
        token: Of the caller; None for none.
        patience: How often a request is repeated that may be.
        sleep: Waits between; tests bring their own.
        version: Of this client.
    """

    def __init__(
        self,
        address: Address,
        token: str | None,
        *,
        patience: Patience,
        sleep: Callable[[float], None] = time.sleep,
        version: str | None = None,
    ) -> None:
        self.address, self.patience = address, patience
        self._sleep = sleep
        self.version = version or metadata.version("reco-training")
        self.server_version: str | None = None
        headers = {"Accept": "application/json", "User-Agent": f"reco/{self.version}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=address.url,
            headers=headers,
            timeout=httpx.Timeout(READ_S, connect=_CONNECT_S),
            limits=httpx.Limits(keepalive_expiry=_IDLE_S),
            follow_redirects=False,  # a token goes where the user sent it, and nowhere else
            trust_env=not address.local,  # no proxy is to see what stays on this machine
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def get(self, path: str, into: type[Answer], params: Params = ()) -> Answer:
        """Ask for something; repeated where there is no answer."""
        return self._read(self._ask("GET", path, params=params, repeat=True), into)

    def post(
        self,
        path: str,
        into: type[Answer],
        body: BaseModel | None = None,
        *,
        key: str | None = None,
        repeat: bool = False,
        read_s: float = READ_S,
    ) -> Answer:
        """Ask for a change.

        Args:
            path: Below the address.
            into: What the answer is.
            body: What is sent.
            key: Idempotency key; with one, the request is repeated where there is no answer.
            repeat: It changes nothing, and may be repeated as well.
            read_s: Longest wait for the answer.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        content = None if body is None else body.model_dump_json().encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        response = self._ask(
            "POST", path, content=content, headers=headers, repeat=repeat or key is not None, read_s=read_s
        )
        return self._read(response, into)

    def delete(self, path: str, *, read_s: float = READ_S) -> bytes:
        """Ask for something to be gone; never repeated. Returns what was answered."""
        return self._ask("DELETE", path, repeat=False, read_s=read_s).content

    @contextlib.contextmanager
    def stream(self, path: str, *, headers: dict[str, str]) -> Iterator[Iterator[bytes]]:
        """An answer that is read as it comes; not repeated.

        Raises:
            ApiUnreachableError: It broke off, or never began.
            AskAgainError: It was refused for now.
            RecoError: It was refused.
        """
        try:
            timeout = httpx.Timeout(STREAM_READ_S, connect=_CONNECT_S)
            with self._client.stream("GET", path, headers=headers, timeout=timeout) as response:
                self._look(response)
                if not response.is_success:
                    response.read()
                    trouble = self._error(response)
                    if response.status_code in _AGAIN:
                        raise AskAgainError(trouble, retry_after(response.headers.get("Retry-After")))
                    raise trouble
                yield response.iter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def wait(self, number: int, trouble: RecoError, asked_s: float | None = None) -> None:
        """Wait before a repetition.

        Args:
            number: Of the repetition, from 1.
            trouble: Raised where there is to be none.
            asked_s: What the server asked for.
        """
        seconds = self.patience.wait(number, asked_s)
        if seconds is None:
            raise trouble
        level = logging.WARNING if seconds >= _SILENT_S else logging.INFO  # who waits at a terminal wants to know
        _log.log(level, "%s; asking again in %.1f s", trouble.message.rstrip("."), seconds)
        self._sleep(seconds)

    def parse(self, content: bytes, into: type[Answer]) -> Answer:
        """What an answer holds.

        Raises:
            OtherVersionError: It is not what this client knows.
        """
        try:
            return TypeAdapter(into).validate_json(content)
        except ValidationError as error:
            raise OtherVersionError(
                f"{self.address.url} answered something that this client does not understand.",
                hint=self._versions() or "Is that the address of the service itself?",
            ) from error

    def note_version(self, server: str | None) -> None:
        """The server says of which version it is; where it is another, the user is told once."""
        if server is None or server == self.server_version:
            return
        self.server_version = server
        if (words := self._versions()) is not None:
            _log.warning("%s", words)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        repeat: bool,
        read_s: float = READ_S,
    ) -> httpx.Response:
        for number in itertools.count(1):
            asked_s = None
            try:
                response = self._client.request(
                    method,
                    path,
                    params=list(params),
                    content=content,
                    headers=headers,
                    timeout=httpx.Timeout(read_s, connect=_CONNECT_S),
                )
            except httpx.TransportError as error:
                trouble: RecoError = self._unreachable(error)
                if not repeat or is_hopeless(error):
                    raise trouble from error
            else:
                self._look(response)
                if response.is_success:
                    return response
                trouble = self._error(response)
                if not repeat or response.status_code not in _AGAIN:
                    raise trouble
                asked_s = retry_after(response.headers.get("Retry-After"))
            self.wait(number, trouble, asked_s)
        raise AssertionError("itertools.count ends")

    def _read(self, response: httpx.Response, into: type[Answer]) -> Answer:
        return self.parse(response.content, into)

    def _error(self, response: httpx.Response) -> RecoError:
        """Why an answer is none."""
        status, where = response.status_code, self.address.url
        problem = problem_in(response.content)
        if problem is not None and problem.code in _UNKNOWN_ADDRESS:
            return OtherVersionError(
                f"the API at {where} does not know {response.request.method} {response.request.url.path}.",
                hint=self._versions() or "Is that the address of the service itself, without a path?",
            )
        if problem is not None and problem.code:
            return error_of(status, problem, wait_s=retry_after(response.headers.get("Retry-After")))
        if response.is_redirect:
            return ApiError(
                f"{where} says that it has moved to {place(response)}.",
                hint="Set RECO_API to that address if you trust it; a token is not sent on.",
            )
        if status in _AGAIN:
            return ApiUnreachableError(f"the API at {where} does not answer: what stands before it says {status}.")
        return ApiError(
            f"{where} answered {status}, and not as this service does.",
            hint="Is that the address of the service itself?",
        )

    def _unreachable(self, error: httpx.TransportError) -> ApiUnreachableError:
        return ApiUnreachableError(
            f"the API at {self.address.url} does not answer: {reason(error)}.",
            hint="Is RECO_API right, and the service up? `reco up` starts one on this machine.",
        )

    def _look(self, response: httpx.Response) -> None:
        self.note_version(response.headers.get(VERSION_HEADER))

    def _versions(self) -> str | None:
        """How the versions differ, in words; None where they do not, or nothing is known."""
        server, mine = release(self.server_version), release(self.version)
        if server is None or mine is None or server == mine:
            return None
        which = "older" if server < mine else "newer"
        return (
            f"The server is {which} ({self.server_version}) than this client ({self.version}): take the same version."
        )
