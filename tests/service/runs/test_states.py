"""The states of a run: the table in docs/runs.md, and what holds for every sequence of signals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runs.states import (
    AttemptState,
    Condition,
    Refusal,
    Signal,
    Snapshot,
    State,
    advance,
    next_state,
    submission_id,
)

_DOCS = Path(__file__).parents[3] / "docs" / "runs.md"


def table_of(title: str) -> list[list[str]]:
    """The cells of the table in docs/runs.md whose head begins like that, head first, rule left out."""
    lines = _DOCS.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"| {title}"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def test_the_code_moves_runs_as_the_documentation_says() -> None:
    head, *rows = table_of("state | `begin`")
    assert head[1:] == [signal.value for signal in Signal]
    assert [row[0] for row in rows] == [state.value for state in State]
    for name, *cells in rows:
        for signal, cell in zip(Signal, cells, strict=True):
            after = next_state(State(name), signal)
            assert ("-" if isinstance(after, Refusal) else after.value) == cell, (name, signal)


def test_the_documentation_says_in_which_states_a_job_may_exist() -> None:
    documented = {row[0]: row[2] for row in table_of("state | what it means")[1:]}
    assert documented == {state.value: "yes" if state.has_live_attempt else "no" for state in State}


def test_every_signal_and_condition_is_explained() -> None:
    assert [row[0] for row in table_of("signal")[1:]] == [signal.value for signal in Signal]
    assert [row[0] for row in table_of("condition")[1:]] == [condition.value for condition in Condition]


@pytest.mark.parametrize("state", [state for state in State if state.is_final])
@pytest.mark.parametrize("signal", [signal for signal in Signal if signal is not Signal.RESUME])
def test_a_run_that_has_ended_stays_as_it_is_by_itself(state: State, signal: Signal) -> None:
    assert next_state(state, signal) == Refusal(state, signal)


@pytest.mark.parametrize("state", State)
def test_only_a_run_that_failed_or_was_cancelled_is_resumed_and_its_attempts_go_on(state: State) -> None:
    run = Snapshot(state, 3, AttemptState.FAILED)
    resumed = advance(run, Signal.RESUME)
    if state not in (State.FAILED, State.CANCELLED):
        assert resumed == Refusal(state, Signal.RESUME)
        return
    assert resumed == Snapshot(State.QUEUED, 3, AttemptState.FAILED)
    assert advance(resumed, Signal.BEGIN) == Snapshot(State.STARTING, 4, AttemptState.INTENDED)


def test_a_refusal_says_what_was_refused() -> None:
    assert str(Refusal(State.RUNNING, Signal.BEGIN)) == "'begin' cannot happen to a run that is running."
    assert str(Refusal(State.CANCELLED, Signal.STOP)) == (
        "the run has been cancelled, and stays so: 'stop' changes nothing."
    )


@given(st.lists(st.sampled_from(Signal), max_size=60))
def test_whatever_happens_attempts_only_grow_one_is_live_at_most_and_only_a_person_undoes_an_end(
    signals: list[Signal],
) -> None:
    run = Snapshot()
    asked_to_stop = False
    for signal in signals:
        after = advance(run, signal)
        if isinstance(after, Refusal):
            assert after == Refusal(run.state, signal)
            continue
        assert run.state.is_final == (signal is Signal.RESUME)
        assert after.attempts - run.attempts == (signal is Signal.BEGIN)
        if signal is Signal.BEGIN:  # the one before has ended
            assert run.attempt is None or run.attempt.is_final
            assert not asked_to_stop
        elif run.attempt is not None and run.attempt.is_final:
            assert after.attempt is run.attempt
        assert after.state.has_live_attempt == (after.attempt is not None and not after.attempt.is_final)
        asked_to_stop = signal is Signal.STOP or (asked_to_stop and signal is not Signal.RESUME)
        if after.state.is_final and asked_to_stop:
            assert after.state in (State.CANCELLED, State.SUCCEEDED)
        run = after


@given(st.lists(st.sampled_from(Signal), max_size=60))
def test_from_wherever_a_run_is_it_can_be_ended(signals: list[Signal]) -> None:
    run = Snapshot()
    for signal in signals:
        after = advance(run, signal)
        run = run if isinstance(after, Refusal) else after
    if run.state.is_final:
        return
    stopping = advance(run, Signal.STOP)
    assert isinstance(stopping, Snapshot)
    ended = stopping if stopping.state.is_final else advance(stopping, Signal.STOPPED)
    assert isinstance(ended, Snapshot)
    assert ended.state is State.CANCELLED


def test_an_answer_that_comes_late_does_not_make_a_running_attempt_pending() -> None:
    running = Snapshot(State.RUNNING, 1, AttemptState.RUNNING)
    assert advance(running, Signal.ACCEPTED) == running


def test_each_attempt_has_a_submission_id_of_its_own() -> None:
    assert submission_id("photos-20260301", 3) == "photos-20260301-a3"
