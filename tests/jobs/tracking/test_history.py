"""The history of a champion: it can only grow, and two writers cannot both be next."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from jobs.errors import UserError
from jobs.tracking.history import RUN_TAG, Entry, History, OvertakenError, undone
from tests.encoders import register_random

FIRST = Entry("promote", 1, 0, "the first one", "ann", checks=("whole: yes", "weights: equal"))


@pytest.fixture
def history(uri: str, request: pytest.FixtureRequest) -> History:
    name = request.node.name.replace("_", "-")[:60]
    MlflowClient(uri).create_registered_model(name)
    return History(name, uri)


def test_entries_come_back_in_order_and_whole(history: History) -> None:
    assert history.entries() == []
    second = Entry("promote", 2, 1, "better", "ben")
    history.append(FIRST, after=0)
    history.append(second, after=1)
    assert history.entries() == [FIRST, second]


def test_who_was_overtaken_is_told_and_changes_nothing(history: History) -> None:
    history.append(FIRST, after=0)
    with pytest.raises(OvertakenError, match="version 1 was promoted by ann"):
        history.append(Entry("promote", 2, 0, "me too", "ben"), after=0)
    assert history.entries() == [FIRST]


def test_a_reason_that_mlflow_would_cut_is_refused_and_one_in_another_script_is_kept(history: History) -> None:
    long = replace(FIRST, reason="ж" * 5000)
    history.append(long, after=0)
    with pytest.raises(UserError, match="longer than MLflow keeps"):
        history.append(replace(FIRST, reason="ж" * 6000), after=1)
    assert history.entries() == [long]


def test_an_entry_cannot_be_changed_by_anybody(history: History, uri: str) -> None:
    history.append(FIRST, after=0)
    run = MlflowClient(uri).get_registered_model(history.model).tags[RUN_TAG]
    with pytest.raises(MlflowException):
        MlflowClient(uri).log_param(run, "000001", "nothing happened")
    assert history.entries() == [FIRST]


def test_of_many_at_once_one_wins_even_where_there_is_no_history_yet(history: History, uri: str) -> None:
    told: list[object] = []
    start = threading.Barrier(5)

    def write(number: int) -> None:
        start.wait()
        try:
            History(history.model, uri).append(replace(FIRST, version=number, who=f"w{number}"), after=0)
            told.append(number)
        except OvertakenError as error:
            told.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(1, 6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (won,) = [each for each in told if isinstance(each, int)]
    assert [entry.version for entry in history.entries()] == [won]
    assert len(told) == 5


def promoted(version: int, previous: int) -> Entry:
    return Entry("promote", version, previous, "", "")


def test_a_rollback_undoes_what_was_not_undone_yet() -> None:
    one, two, five = promoted(1, 0), promoted(2, 1), promoted(5, 2)
    assert undone([]) is None
    assert undone([one]) is None
    assert undone([one, two]) == 1
    assert undone([one, two, five]) == 2
    back = Entry("rollback", 2, 5, "", "")
    assert undone([one, two, five, back]) == 1
    assert undone([one, two, five, back, Entry("rollback", 1, 2, "", "")]) is None
    assert undone([one, Entry("outside", 7, 1, "", ""), promoted(8, 7)]) == 7
    assert undone([promoted(4, 3)]) == 3, "a champion from before there was a history"


def test_registered_encoders_carry_what_they_were_judged_by(uri: str) -> None:
    from jobs.tracking.models import find_model

    register_random(uri, "judged", knn=61.5)
    version = find_model("judged/1", uri)
    (found,) = version.evaluations
    assert (found.metrics, found.main, found.data) == ({"knn@20": 61.5}, "knn@20", "some shards")
    assert version.code
