"""What the API is told besides the service's own settings: who may name which data, and how much it puts up with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.errors import UserError


@dataclass(frozen=True)
class ApiSettings:
    """Limits and rules of the API.

    Attributes:
        allowed_data: Prefixes that the pictures of a spec may lie below (`RECO_ALLOWED_DATA`, with commas between them;
            everything in S3 by default).
        allow_local: Specs may name any folder of this machine (`RECO_ALLOW_LOCAL=1`): for one that only its own people
            reach.
        metrics_open: `/metrics` needs no token (`RECO_METRICS_OPEN=1`).
        per_minute: Requests of one token (`RECO_RATE_LIMIT`); 0 for any number.
        anonymous_per_minute: Requests without a token that is right, of one address (`RECO_RATE_LIMIT_ANONYMOUS`).
        max_body: Largest body of a request, in bytes.
        timeout_s: Longest that a body may take to arrive, or an answer to something that was only read.
        token_cache_s: How long a token is taken for good without asking the database: another process may have revoked
            it meanwhile.
        streams: Most event streams at once.
        poll_s: How often a stream looks for something new.
        heartbeat_s: How often a silent stream says that it is still there, and looks whether its token still is.
    """

    allowed_data: tuple[str, ...] = ("s3://",)
    allow_local: bool = False
    metrics_open: bool = False
    per_minute: int = 1200
    anonymous_per_minute: int = 300
    max_body: int = 2 << 20
    timeout_s: float = 30.0
    token_cache_s: float = 5.0
    streams: int = 200
    poll_s: float = 1.0
    heartbeat_s: float = 15.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ApiSettings:
        """Read them.

        Raises:
            UserError: What a variable says cannot be.
        """
        allowed = [each.strip() for each in environment.get("RECO_ALLOWED_DATA", "").split(",")]
        return cls(
            allowed_data=tuple(each for each in allowed if each) or cls.allowed_data,
            allow_local=_switch(environment, "RECO_ALLOW_LOCAL"),
            metrics_open=_switch(environment, "RECO_METRICS_OPEN"),
            per_minute=_number(environment, "RECO_RATE_LIMIT", cls.per_minute),
            anonymous_per_minute=_number(environment, "RECO_RATE_LIMIT_ANONYMOUS", cls.anonymous_per_minute),
        )


def _switch(environment: Mapping[str, str], name: str) -> bool:
    given = environment.get(name, "")
    if given not in ("", "0", "1"):
        raise UserError(f"{name} is {given!r}.", hint="Set it to 1 for yes, or leave it out.")
    return given == "1"


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name, "")
    if not given:
        return default
    if not given.isascii() or not given.isdigit():
        raise UserError(f"{name} is {given!r}, which is no number.", hint="Give requests a minute; 0 for any number.")
    return int(given)
