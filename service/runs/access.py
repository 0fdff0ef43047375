"""Who may do what, and who did: tokens, of which only hashes are kept, and the audit, which can only grow."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.runs.database import Database
from service.runs.schema import AuditModel, JsonObject, TokenModel

_MARK = "reco_"  # so that scanners for leaked secrets can know one
_SHOWN = 12
_USE_NOTED_EVERY = timedelta(minutes=1)  # a request that only reads should mostly not have to write


@dataclass(frozen=True)
class Token:
    """A token, without its secret.

    Attributes:
        prefix: How it begins, to tell which one it is.
        role: What its holder is.
        scopes: What it may be used for.
        project: The only one it is for; None for all.
    """

    id: str
    prefix: str
    name: str
    owner: str
    role: str
    scopes: frozenset[str]
    project: str | None
    created: datetime
    expires: datetime | None
    last_used: datetime | None
    revoked: datetime | None

    @classmethod
    def of(cls, row: TokenModel) -> Token:
        """From its row."""
        return cls(
            id=row.id,
            prefix=row.prefix,
            name=row.name,
            owner=row.owner,
            role=row.role,
            scopes=frozenset(row.scopes.split()),
            project=row.project,
            created=row.created,
            expires=row.expires,
            last_used=row.last_used,
            revoked=row.revoked,
        )


@dataclass(frozen=True)
class AuditEntry:
    """Something that somebody did."""

    number: int
    at: datetime
    actor: str
    action: str
    target: str
    data: JsonObject


class Tokens:
    """Issues, checks and revokes tokens.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(
        self,
        *,
        name: str,
        owner: str,
        role: str,
        scopes: Collection[str] = (),
        project: str | None = None,
        expires: datetime | None = None,
    ) -> tuple[str, Token]:
        """Make a token; its secret is told now and never again.

        Args:
            name: What its owner calls it.
            owner: Who acts with it.
            role: What its holder is.
            scopes: What it may be used for; words without blanks.
            project: The only one it is for; None for all.
            expires: When it ends; None for never.
        """
        if any(len(scope.split()) != 1 for scope in scopes):
            raise ValueError(f"a scope is one word: {sorted(scopes)}")
        secret = _MARK + secrets.token_urlsafe(32)
        row = TokenModel(
            id=secrets.token_hex(8),
            hash=_hash(secret),
            prefix=secret[:_SHOWN],
            name=name,
            owner=owner,
            role=role,
            scopes=" ".join(sorted(scopes)),
            project=project,
            created=self._database.clock(),
            expires=expires,
        )
        with self._database.writing() as session:
            session.add(row)
            session.flush()
            return secret, Token.of(row)

    def check(self, secret: str) -> Token | None:
        """The token of a secret; None where there is none, it has expired, or it was revoked."""
        now = self._database.clock()
        with self._database.reading() as session:
            row = session.scalar(select(TokenModel).where(TokenModel.hash == _hash(secret)))
        if row is None or row.revoked is not None or (row.expires is not None and row.expires <= now):
            return None
        if row.last_used is None or now - row.last_used >= _USE_NOTED_EVERY:
            with self._database.writing() as session:
                session.execute(update(TokenModel).where(TokenModel.id == row.id).values(last_used=now))
        return Token.of(row)

    def revoke(self, token_id: str) -> bool:
        """End a token for good; False where there is none, or it was ended already."""
        with self._database.writing() as session:
            changed = session.execute(
                update(TokenModel)
                .where(TokenModel.id == token_id, TokenModel.revoked.is_(None))
                .values(revoked=self._database.clock())
                .returning(TokenModel.id)
            )
            return changed.first() is not None

    def list(self, owner: str | None = None) -> list[Token]:
        """Tokens, the oldest first.

        Args:
            owner: Only those of one.
        """
        chosen = select(TokenModel).order_by(TokenModel.created, TokenModel.id)
        if owner is not None:
            chosen = chosen.where(TokenModel.owner == owner)
        with self._database.reading() as session:
            return [Token.of(row) for row in session.scalars(chosen)]


class Audit:
    """Keeps who did what.

    Args:
        database: Where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, actor: str, action: str, target: str, data: JsonObject | None = None) -> None:
        """Note that somebody did something."""
        with self._database.writing() as session:
            self.add_in(session, actor, action, target, data)

    def add_in(self, session: Session, actor: str, action: str, target: str, data: JsonObject | None = None) -> None:
        """The same in the transaction of what was done, so that there is not one without the other."""
        at = self._database.clock()
        session.add(AuditModel(at=at, actor=actor, action=action, target=target, data=data or {}))

    def entries(
        self, *, actor: str | None = None, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """What was done, the latest first.

        Args:
            actor: Only by one.
            target: Only to one thing.
            before: Number of the last entry of the page before.
            limit: At most so many.
        """
        chosen = select(AuditModel).order_by(AuditModel.number.desc()).limit(limit)
        if actor is not None:
            chosen = chosen.where(AuditModel.actor == actor)
        if target is not None:
            chosen = chosen.where(AuditModel.target == target)
        if before is not None:
            chosen = chosen.where(AuditModel.number < before)
        with self._database.reading() as session:
            return [
                AuditEntry(row.number, row.at, row.actor, row.action, row.target, row.data)
                for row in session.scalars(chosen)
            ]


def _hash(secret: str) -> str:
    # Plain SHA-256: a slow hash protects words that can be guessed, and nobody guesses 256 random bits.
    return hashlib.sha256(secret.encode()).hexdigest()
