"""Tokens of the API, for the contract."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from service.contract.interface import Tokens
from service.contract.messages import Identity, IssuedToken, NewToken, TokenView
from service.control.views import token_fields, token_view

if TYPE_CHECKING:
    from service.control.control import Control


class StoredTokens(Tokens):
    """Tokens in the database; every change is in the audit.

    Args:
        control: The service.
        caller: Who asks.
    """

    def __init__(self, control: Control, caller: Identity) -> None:
        self._control, self._caller = control, caller

    def issue(self, new: NewToken) -> IssuedToken:
        """See `Tokens.issue`."""
        control = self._control
        expires = None if new.days is None else control.database.clock() + timedelta(days=new.days)
        project = self._caller.project or new.project  # who sees one project lets nobody see more
        secret, token = control.tokens_store.issue(
            name=new.name, owner=new.owner, role=new.role, project=project, expires=expires
        )
        told = {"name": new.name, "owner": new.owner, "role": new.role}
        control.audit.add(self._caller.owner, "token.issue", token.id, {**told})
        return IssuedToken.model_validate({**token_fields(token), "secret": secret})

    def issued(self) -> list[TokenView]:
        """See `Tokens.issued`."""
        mine = self._caller.project
        return [token_view(each) for each in self._control.tokens_store.list() if mine in (None, each.project)]

    def revoke(self, token_id: str) -> bool:
        """See `Tokens.revoke`."""
        if token_id not in {each.id for each in self.issued()}:
            return False
        revoked = self._control.tokens_store.revoke(token_id)
        if revoked:
            self._control.audit.add(self._caller.owner, "token.revoke", token_id)
        return revoked
