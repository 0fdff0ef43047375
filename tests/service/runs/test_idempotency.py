"""A request that comes again, because its answer was lost, is answered and not carried out again."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.runs.database import Database, open_database
from service.runs.errors import KeyReusedError, RunExistsError
from service.runs.idempotency import Replies, Reply
from service.runs.listing import RunList
from service.runs.records import NewRun
from service.runs.schema import JsonObject
from service.runs.store import RunStore
from tests.service.runs.conftest import Clock
from tests.service.runs.racing import line_up, race


def submit(database: Database, *, key: str = "k", run_id: str = "one", project: str = "birds") -> Reply:
    def act(session: Session) -> JsonObject:
        run = RunStore(database).create_in(session, NewRun(run_id, run_id, "{}", "h", "ann"))
        return {"id": run.id}

    return Replies(database).once(project=project, key=key, request=b"the same", act=act)


def test_a_repeated_request_gets_the_answer_of_the_first(database: Database) -> None:
    assert submit(database, run_id="one") == Reply({"id": "one"}, repeated=False)
    assert submit(database, run_id="two") == Reply({"id": "one"}, repeated=True)
    assert [run.id for run in RunList(database).page().runs] == ["one"]


def test_a_key_for_another_request_is_a_mistake(database: Database) -> None:
    submit(database)
    with pytest.raises(KeyReusedError):
        Replies(database).once(project="birds", key="k", request=b"another", act=lambda _: {})


def test_keys_of_different_projects_do_not_meet(database: Database) -> None:
    submit(database, run_id="one", project="birds")
    assert submit(database, run_id="two", project="fish") == Reply({"id": "two"}, repeated=False)


def test_a_request_that_failed_may_be_tried_again_under_its_key(database: Database) -> None:
    submit(database, run_id="one", key="first")
    with pytest.raises(RunExistsError):
        submit(database, run_id="one", key="second")
    assert submit(database, run_id="two", key="second") == Reply({"id": "two"}, repeated=False)


def test_old_answers_are_forgotten(database: Database, clock: Clock) -> None:
    submit(database, run_id="one", key="old")
    clock.pass_time(100)
    submit(database, run_id="two", key="new")
    assert Replies(database).forget(clock.at) == 1
    assert submit(database, run_id="three", key="new").repeated
    assert not submit(database, run_id="three", key="old").repeated


def _submit(given: tuple[str, str]) -> Reply:
    url, run_id = given
    with open_database(url) as database:
        line_up()
        return submit(database, run_id=run_id)


def test_of_four_requests_at_once_under_one_key_one_is_carried_out(url: str, database: Database) -> None:
    replies = race(_submit, [(url, run_id) for run_id in "abcd"])
    [run] = RunList(database).page().runs
    assert [reply.response for reply in replies] == [{"id": run.id}] * 4
    assert sorted(reply.repeated for reply in replies) == [False, True, True, True]


def test_two_requests_under_one_key_for_one_run_are_one(url: str, database: Database) -> None:
    replies = race(_submit, [(url, "same")] * 3)
    assert [reply.response for reply in replies] == [{"id": "same"}] * 3
