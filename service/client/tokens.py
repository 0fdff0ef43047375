"""Tokens of the API over HTTP, for the contract."""

from __future__ import annotations

import re

from service.api.errors import UnknownTokenError
from service.client.http import Http
from service.contract.interface import Tokens
from service.contract.messages import IssuedToken, NewToken, TokenView


class HttpTokens(Tokens):
    """Tokens, asked for over HTTP.

    Args:
        http: The API.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    def issue(self, new: NewToken) -> IssuedToken:
        """See `Tokens.issue`."""
        return self._http.post("/v1/tokens", IssuedToken, new)

    def issued(self) -> list[TokenView]:
        """See `Tokens.issued`."""
        return self._http.get("/v1/tokens", list[TokenView])

    def revoke(self, token_id: str) -> bool:
        """See `Tokens.revoke`."""
        if not re.fullmatch(r"[0-9a-f]{1,32}", token_id):
            return False  # no token has such an id
        try:
            self._http.delete(f"/v1/tokens/{token_id}")
        except UnknownTokenError:
            return False
        return True
