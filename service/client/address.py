"""The address of an API, and whether a token may be sent there."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import httpx

from service.client.errors import ApiAddressError, InsecureAddressError, TokenError


@dataclass(frozen=True)
class Address:
    """Where an API is.

    Attributes:
        url: Without `/v1` and without a slash at its end.
        local: It is this machine itself.
    """

    url: str
    local: bool

    @classmethod
    def of(cls, given: str) -> Address:
        """Read an address. One with a password in it is refused, and not repeated in the error.

        Raises:
            ApiAddressError: It is none.
        """
        try:
            parts = urlsplit(given.strip())
            port = parts.port
            httpx.URL(given.strip())  # which knows more of what cannot be a host
        except (ValueError, httpx.InvalidURL) as error:
            raise _wrong("the address of the API cannot be read") from error
        if parts.username is not None or parts.password is not None:
            raise ApiAddressError(
                "the address of the API has a user or a password in it.",
                hint="Leave them out; a token is given in RECO_TOKEN.",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _wrong(f"{given!r} is no address of an API")
        if parts.query or parts.fragment:
            raise _wrong("the address of the API has a question or a fragment in it")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(
            SplitResult(parts.scheme, _host(parts.hostname, port), path, "", "").geturl(), _is_local(parts.hostname)
        )

    def admit(self, token: str | None, *, insecure: bool = False) -> None:
        """See whether a token may go there: on plain http, everybody on the way can read it.

        Args:
            token: The token, or None.
            insecure: Whoever calls says that nobody else is on the way.

        Raises:
            InsecureAddressError: It may not.
            TokenError: It cannot be a token.
        """
        if token is None:
            return
        if not token or not all("!" <= each <= "~" for each in token):  # it would be repeated in an error of httpx
            raise TokenError(
                "the token has a character that none has, or is empty.",
                hint="Set RECO_TOKEN to what `reco tokens create` printed, and nothing else.",
            )
        if self.url.startswith("http:") and not self.local and not insecure:
            raise InsecureAddressError(
                f"the token is not sent to {self.url}: on plain http, everybody on the way can read it.",
                hint="Use an address with https, or set RECO_INSECURE=1 where nobody else is on the way.",
            )


def _wrong(what: str) -> ApiAddressError:
    return ApiAddressError(f"{what}.", hint="Set RECO_API to http://HOST:PORT or https://HOST.")


def _host(name: str, port: int | None) -> str:
    host = f"[{name}]" if ":" in name else name
    return host if port is None else f"{host}:{port}"


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
