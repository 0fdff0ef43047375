"""What goes wrong between client and API, and the service's own errors, made again from what the API answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

import jobs.storage.errors
import jobs.tracking.errors
import jobs.tracking.history
import service.api.errors
import service.backends.base
import service.models.registry
import service.runs.errors
from jobs.errors import RecoError, UserError
from service.api.errors import TooManyRequestsError, UnauthenticatedError
from service.api.messages import FieldMistake, Problem

Known = TypeVar("Known", bound=RecoError)


class ApiAddressError(UserError):
    """The address of an API is none."""


class InsecureAddressError(ApiAddressError):
    """A token would go over the network for everybody to read."""


class TokenError(UserError):
    """What is given as a token cannot be one."""


class ApiError(RecoError):
    """What answered did not answer as the API does, or no more than that something is wrong."""


class ApiUnreachableError(ApiError):
    """The API does not answer, however often it was asked: what became of the request is not known."""


class OtherVersionError(ApiError, UserError):
    """The API is of another version, and does not know or tell what this client wants."""


class MistakenRequestError(UserError):
    """Fields of a request hold what they must not."""


_KNOWN: Mapping[str, type[RecoError]] = {
    name: kind
    for module in (
        jobs.storage.errors,
        jobs.tracking.errors,
        jobs.tracking.history,
        service.api.errors,
        service.backends.base,
        service.models.registry,
        service.runs.errors,
    )
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, RecoError)
}
_INVALID = "InvalidRequest"


def problem_in(content: bytes) -> Problem | None:
    """The problem that an answer holds; None where it holds something else."""
    try:
        return Problem.model_validate_json(content)
    except ValidationError:
        return None


def error_of(status: int, problem: Problem, *, wait_s: float | None = None) -> RecoError:
    """The error that the service raised; one that this version has no class for is a plain one, with the same words.

    Args:
        status: Of the answer.
        problem: What it says.
        wait_s: After how long it says that one may ask again.
    """
    if problem.code == "SpecError":
        return _spec_error(problem)
    if problem.code == _INVALID:
        return MistakenRequestError(_with_mistakes(problem.detail, problem.errors), hint=problem.hint)
    kind = _KNOWN.get(problem.code, UserError if status < 500 else RecoError)
    hint = "Set RECO_TOKEN to a token that is good." if kind is UnauthenticatedError else problem.hint
    error = _made(kind, problem.detail, hint)
    if isinstance(error, TooManyRequestsError):
        error.wait_s = wait_s or 0.0
    return error


def _made(kind: type[Known], words: str, hint: str | None) -> Known:
    """An error, not by its constructor: some classes put the words together, and here they are whole already."""
    error = kind.__new__(kind)
    RecoError.__init__(error, words, hint=hint)
    return error


def _spec_error(problem: Problem) -> RecoError:
    from jobs.spec import SpecError  # late: all options of a spec, for a command that may have nothing to do with one
    from jobs.spec.document import Mistake

    error = _made(SpecError, problem.detail, problem.hint)
    error.source = "spec"
    error.mistakes = [Mistake(each.path, each.line, each.message) for each in problem.errors]
    return error


def _with_mistakes(detail: str, mistakes: Sequence[FieldMistake]) -> str:
    told = [f"{each.path}: {each.message}" for each in mistakes]
    return "\n".join([detail, *(f"  {each}" for each in told)])
