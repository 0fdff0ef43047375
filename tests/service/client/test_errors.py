"""Errors of the service are the same class with the same words on the other side of HTTP."""

from __future__ import annotations

import pytest

from jobs.errors import RecoError, UserError
from jobs.spec import SpecError, parse_spec
from service.api.errors import TooManyRequestsError
from service.api.messages import Problem
from service.api.problems import problem_of
from service.client.errors import _KNOWN, ApiError, error_of, problem_in
from service.runs.errors import SchemaError, StoreError, TransitionError
from service.runs.states import Refusal, Signal, State


def through_http(error: RecoError, wait_s: float | None = None) -> RecoError:
    response = problem_of(error)
    problem = problem_in(bytes(response.body))
    assert problem is not None
    return error_of(response.status_code, problem, wait_s=wait_s)


_HIDDEN = (StoreError, SchemaError)
"""Whose words are for the service's log."""


@pytest.mark.parametrize("kind", [*_KNOWN.values()], ids=lambda kind: str(kind.__name__))
def test_every_known_error_comes_back_as_itself(kind: type[RecoError]) -> None:
    error = kind.__new__(kind)
    RecoError.__init__(error, "it did not work.", hint="Try it otherwise.")
    if isinstance(error, TooManyRequestsError):
        error.wait_s = 3.0
    told = through_http(error, wait_s=3.0)
    assert type(told) is kind
    assert told.exit_code == error.exit_code
    if kind in _HIDDEN:
        assert "it did not work" not in str(told)
        return
    assert told.message == "it did not work."
    if kind.__name__ != "UnauthenticatedError":  # whose hint is about RECO_TOKEN here, and about a header there
        assert told.hint == "Try it otherwise."
    if isinstance(told, TooManyRequestsError):
        assert told.wait_s == 3.0


def test_all_mistakes_of_a_spec_come_back() -> None:
    with pytest.raises(SpecError) as raised:
        parse_spec("name: x\nencoder: {name: resnet5}\ntrain: {epochs: -1}\n")
    told = through_http(raised.value)
    assert isinstance(told, SpecError)
    assert told.message == raised.value.message
    assert [(each.path, each.line) for each in told.mistakes] == [(it.path, it.line) for it in raised.value.mistakes]


def test_an_error_that_puts_its_words_together_is_not_put_together_twice() -> None:
    error = TransitionError("r-1", Refusal(State.SUCCEEDED, Signal.STOP))
    told = through_http(error)
    assert isinstance(told, TransitionError)
    assert str(told) == str(error)


def test_what_the_api_refuses_is_known_by_its_class() -> None:
    names = {"UnknownRunError", "RunExistsError", "TransitionError", "KeyReusedError", "ForbiddenError", "BusyError"}
    names |= {"RefusedError", "OvertakenError", "UnknownModelError", "TooManyRequestsError", "DataNotAllowedError"}
    assert names <= _KNOWN.keys()


@pytest.mark.parametrize(("status", "kind"), [(409, UserError), (500, RecoError)])
def test_an_error_of_a_newer_server_keeps_its_words(status: int, kind: type[RecoError]) -> None:
    problem = Problem(title="t", status=status, detail="something new.", hint="Do this.", code="BrandNewError")
    told = error_of(status, problem)
    assert type(told) is kind
    assert (told.message, told.hint) == ("something new.", "Do this.")


def test_mistakes_of_a_request_are_told_one_a_line() -> None:
    content = (
        b'{"title":"t","status":422,"detail":"the request has 2 mistakes.","code":"InvalidRequest",'
        b'"errors":[{"path":"body.spec","message":"too long"},{"path":"body.x","message":"unknown"}],"new":1}'
    )
    problem = problem_in(content)
    assert problem is not None
    told = error_of(422, problem)
    assert told.message == "the request has 2 mistakes.\n  body.spec: too long\n  body.x: unknown"


def test_what_is_no_problem_is_none() -> None:
    assert problem_in(b"<html>Bad Gateway</html>") is None
    assert not issubclass(ApiError, UserError)
