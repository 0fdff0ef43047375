"""Connects to an API: the same service that `service.control` is, from anywhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.client.address import Address
from service.client.http import Http
from service.client.models import HttpModels
from service.client.patience import Patience
from service.client.runs import HttpRuns
from service.client.tokens import HttpTokens
from service.contract.interface import Service
from service.contract.messages import Identity


@dataclass(frozen=True)
class HttpService(Service):
    """Everything the service can be asked, over HTTP; beside the contract, its runs can be followed.

    Attributes:
        server_version: Of the API, as it told it; None where it told none.
    """

    runs: HttpRuns
    server_version: str | None = None


@contextmanager
def connect(
    url: str,
    token: str | None,
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[HttpService]:
    """The service at an address, after it has said who the caller is.

    A request that changes nothing, or that has an idempotency key, is repeated where no answer comes, or 429, 502, 503
    or 504; others never are. What the service refuses is raised as the same class as without HTTP.

    Args:
        url: `http://HOST:PORT` or `https://HOST`, perhaps with the path that the API is behind.
        token: Of the caller. On plain http it is only sent to this machine, unless `RECO_INSECURE` is 1.
        patience: How often a request is repeated, and after which waits.
        sleep: Waits; tests bring their own.

    Raises:
        ApiAddressError: The address is none, or the token may not be sent there.
        UnauthenticatedError: The token is not good (any more).
        ApiUnreachableError: None answers there.
    """
    address = Address.of(url)
    address.admit(token, insecure=os.environ.get("RECO_INSECURE") == "1")
    http = Http(address, token, patience=patience or Patience(), sleep=sleep)
    try:
        caller = http.get("/v1/me", Identity)
        http.note_version(caller.version)
        yield HttpService(
            runs=HttpRuns(http),
            models=HttpModels(http),
            tokens=HttpTokens(http),
            where=address.url,
            caller=caller,
            server_version=http.server_version,
        )
    finally:
        http.close()
