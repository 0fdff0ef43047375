"""Tokens and the audit."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from service.runs.access import Audit, Tokens
from service.runs.database import Database
from service.runs.records import NewRun
from service.runs.store import RunStore
from tests.service.runs.conftest import Clock


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


def test_a_token_is_known_by_its_secret_alone(tokens: Tokens, clock: Clock) -> None:
    secret, token = tokens.issue(name="laptop", owner="ann", role="runner", scopes=["runs", "models"], project="birds")
    found = tokens.check(secret)
    assert found == token
    assert (token.owner, token.role, token.scopes, token.project) == (
        "ann",
        "runner",
        frozenset({"runs", "models"}),
        "birds",
    )
    assert secret.startswith(token.prefix)
    assert tokens.check(secret + "x") is None
    assert tokens.check(token.prefix) is None


def test_no_secret_is_in_the_database(database: Database, tokens: Tokens) -> None:
    secret, token = tokens.issue(name="laptop", owner="ann", role="viewer")
    with database.reading() as session:
        stored = str(session.execute(text("SELECT * FROM tokens")).all())
    assert token.prefix in stored
    assert secret not in stored
    assert secret[len(token.prefix) :] not in stored


def test_a_token_ends_when_it_expires(tokens: Tokens, clock: Clock) -> None:
    secret, _ = tokens.issue(name="x", owner="ann", role="viewer", expires=clock.at + timedelta(hours=1))
    clock.pass_time(3599)
    assert tokens.check(secret) is not None
    clock.pass_time(1)
    assert tokens.check(secret) is None


def test_a_token_ends_when_it_is_revoked_and_stays_listed(tokens: Tokens, clock: Clock) -> None:
    secret, token = tokens.issue(name="x", owner="ann", role="viewer")
    _, other = tokens.issue(name="y", owner="ben", role="viewer")
    assert tokens.revoke(token.id)
    assert not tokens.revoke(token.id)
    assert not tokens.revoke("no such")
    assert tokens.check(secret) is None
    assert [(each.id, each.revoked) for each in tokens.list("ann")] == [(token.id, clock.at)]
    assert {each.id for each in tokens.list()} == {token.id, other.id}


def test_use_is_noted_once_a_minute(tokens: Tokens, clock: Clock) -> None:
    secret, token = tokens.issue(name="x", owner="ann", role="viewer")
    noted = []
    for _ in range(4):
        tokens.check(secret)
        noted.append(tokens.list()[0].last_used)
        clock.pass_time(30)
    began = token.created
    assert noted == [began, began, began + timedelta(seconds=60), began + timedelta(seconds=60)]


def test_a_scope_is_one_word(tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="one word"):
        tokens.issue(name="x", owner="ann", role="viewer", scopes=["runs models"])


def test_the_audit_says_who_did_what_latest_first(database: Database, clock: Clock) -> None:
    audit = Audit(database)
    audit.add("ann", "stop", "run/one", {"words": "Enough."})
    clock.pass_time(5)
    audit.add("ben", "submit", "run/two")
    audit.add("ann", "promote", "model/birds")
    assert [(entry.actor, entry.action) for entry in audit.entries()] == [
        ("ann", "promote"), ("ben", "submit"), ("ann", "stop"),
    ]  # fmt: skip
    [stop] = audit.entries(target="run/one")
    assert (stop.data, stop.at) == ({"words": "Enough."}, clock.at - timedelta(seconds=5))
    newest, *_ = by_ann = audit.entries(actor="ann")
    assert audit.entries(actor="ann", before=newest.number) == by_ann[1:] == [stop]
    assert audit.entries(limit=1) == [newest]


def test_what_was_not_done_is_not_in_the_audit(database: Database) -> None:
    audit = Audit(database)

    def half_way() -> None:
        with database.writing() as session:
            RunStore(database).create_in(session, NewRun("one", "one", "{}", "h", "ann"))
            audit.add_in(session, "ann", "submit", "run/one")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        half_way()
    assert audit.entries() == []
