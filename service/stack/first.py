"""What a stack needs before its first part is started: the first token."""

from __future__ import annotations

from service.control.control import this_user
from service.runs.access import Audit, Tokens
from service.runs.database import Database
from service.stack.layout import Layout, write_private

NAME = "reco up"
"""Of the token."""


def make_first_token(database: Database, layout: Layout) -> bool:
    """See to it that the stack's token is there and is let in, as an administrator.

    One that was revoked, or is of another database, is replaced; so is one that nobody can use, since the process that
    stored it died before it wrote its secret down.

    Returns:
        Whether a token was made.
    """
    tokens, audit, user = Tokens(database), Audit(database), this_user()
    if layout.token.exists() and tokens.check(layout.token.read_text().strip()) is not None:
        layout.token.chmod(0o600)
        return False
    for left in tokens.list(user.owner):
        if left.name == NAME and left.revoked is None and tokens.revoke(left.id):
            audit.add(user.owner, "token.revoke", left.id)
    secret, token = tokens.issue(name=NAME, owner=user.owner, role="admin")
    audit.add(user.owner, "token.issue", token.id, {"name": NAME, "owner": user.owner, "role": "admin"})
    write_private(layout.token, f"{secret}\n")
    return True
