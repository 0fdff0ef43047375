"""Requests that are carried out once, however often a client that heard no answer sends them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.runs.database import Database
from service.runs.errors import ConflictError, KeyReusedError
from service.runs.schema import IdempotencyModel, JsonObject


@dataclass(frozen=True)
class Reply:
    """What a request was answered.

    Attributes:
        response: The answer.
        repeated: It had been given before; nothing was done this time.
    """

    response: JsonObject
    repeated: bool


class Replies:
    """Keeps what was answered, under the key that the client chose.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def once(self, *, project: str, key: str, request: bytes, act: Callable[[Session], JsonObject]) -> Reply:
        """Do something and keep the answer, in one transaction; or give the answer that was kept.

        Args:
            project: Keys of one do not meet those of another.
            key: The client's.
            request: What it asked, to tell a repetition from a mistake.
            act: Does it, in the session it is given, and returns the answer. What it raises undoes everything.

        Raises:
            KeyReusedError: The key came before, with another request.
        """
        if (kept := self.kept(project=project, key=key, request=request)) is not None:
            return kept
        asked = hashlib.sha256(request).hexdigest()
        with self._database.writing() as session:
            row = IdempotencyModel(project=project, key=key, request_hash=asked, response={}, at=self._database.clock())
            session.add(row)
            try:
                # The key comes first: a second request waits here until it is known what became of the first.
                session.flush()
            except IntegrityError:
                session.rollback()
            else:
                row.response = act(session)
                session.flush()
                return Reply(row.response, repeated=False)
        if (kept := self.kept(project=project, key=key, request=request)) is None:
            raise ConflictError(f"the answer kept under {key!r} has just been deleted.", hint="Ask again.")
        return kept

    def kept(self, *, project: str, key: str, request: bytes) -> Reply | None:
        """The answer that a request was given before; None where it is new.

        Whoever checks something before `once` asks here first: what was fine then need not be so any more.

        Raises:
            KeyReusedError: The key came before, with another request.
        """
        with self._database.reading() as session:
            row = session.get(IdempotencyModel, (project, key))
        if row is None:
            return None
        if row.request_hash != hashlib.sha256(request).hexdigest():
            raise KeyReusedError(
                f"the idempotency key {key!r} was used for another request.", hint="Take a new key for a new request."
            )
        return Reply(row.response, repeated=True)

    def forget(self, before: datetime) -> int:
        """Delete answers kept before a moment, and return how many: no client asks again after so long."""
        with self._database.writing() as session:
            gone = session.execute(
                delete(IdempotencyModel).where(IdempotencyModel.at < before).returning(IdempotencyModel.key)
            )
            return len(gone.all())
