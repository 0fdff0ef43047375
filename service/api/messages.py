"""What the API says besides the messages of the contract: problems, the audit, and how it is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from service.contract.messages import JsonObject, Told


class FieldMistake(Told):
    """One thing that is wrong with a request.

    Attributes:
        path: Of the field, or of the option of a spec; empty where the whole is meant.
        line: Of the spec.
        message: What is wrong with it.
    """

    path: str
    line: int | None = None
    message: str


class Problem(Told):
    """Why a request was not carried out.

    Attributes:
        title: The status in words.
        detail: What happened.
        hint: What to do next.
        code: The kind of error, for programs.
        errors: All that is wrong with the request, where it is its fields or its spec.
        request_id: What the service's own log has more under.
    """

    type: str = "about:blank"
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    hint: str | None = None
    code: str
    errors: list[FieldMistake] = Field(default_factory=list)
    request_id: str | None = None


class AuditView(Told):
    """Something that somebody did, or was refused."""

    number: int
    at: datetime
    actor: str
    action: str
    target: str
    data: JsonObject


class AuditPage(Told):
    """A part of the audit, from the latest on.

    Attributes:
        next: `before` of the next page; None after the last one.
    """

    entries: list[AuditView]
    next: int | None = None


class Health(Told):
    """Whether the service can work.

    Attributes:
        ready: The database answers; nothing else decides.
        parts: Each is `ok`, `unreachable`, `unset` where there is none, or `unknown` until it was asked.
    """

    ready: bool
    parts: dict[str, str]
