"""What a person can do to a run from its page: each is a form of its own, so it works without JavaScript."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from jobs.errors import RecoError, UserError
from service.api.problems import in_words
from service.contract.messages import Change, RunDetails
from service.runs.errors import UnknownRunError
from service.runs.states import State
from service.web.session import Visit, Visited

Act = Literal["stop", "resume", "fork", "delete"]

router = APIRouter()


@dataclass(frozen=True)
class Filled:
    """What a form was filled in with.

    Attributes:
        overrides: One `path=value` a line.
        run_id: Of a fork.
        key: Of this form: sent twice, it makes one fork.
    """

    overrides: str = ""
    run_id: str = ""
    key: str = ""

    def change(self) -> Change:
        """The same as a message.

        Raises:
            UserError: A field is not as it should be.
        """
        lines = [line.strip() for line in self.overrides.splitlines() if line.strip()]
        try:
            return Change(overrides=lines, run_id=self.run_id.strip() or None)
        except ValidationError as error:
            said = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
            raise UserError(f"the form has mistakes: {said}.", hint="Correct them, and send it again.") from error


def possible(run: RunDetails) -> list[Act]:
    """What can be done to a run in its state."""
    acts: list[Act] = [] if run.state.is_final or run.state is State.STOPPING else ["stop"]
    if run.state in (State.FAILED, State.CANCELLED):
        acts.append("resume")
    if run.kind == "run" and run.attempts:
        acts.append("fork")
    return [*acts, "delete"] if run.state.is_final else acts


@router.get("/runs/{run_id}/do/{act}")
def ask(visit: Visited, run_id: str, act: Act) -> Response:
    """The form that asks whether it is meant."""
    visit.require(f"{act}_run")
    return _form(visit, visit.service.runs.show(run_id), act, Filled(key=secrets.token_urlsafe(16)))


@router.post("/runs/{run_id}/do/{act}")
def do(
    visit: Visited,
    run_id: str,
    act: Act,
    overrides: Annotated[str, Form(max_length=100_000)] = "",
    new_id: Annotated[str, Form(max_length=200)] = "",
    key: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Do it, and show the run again, or the form with what was wrong."""
    visit.require(f"{act}_run")
    try:
        run = visit.service.runs.show(run_id)
    except UnknownRunError:
        if act != "delete":
            raise
        visit.service.runs.delete(run_id)  # perhaps it was deleted halfway: this ends it, or says that there is none
        return RedirectResponse("/runs?done=delete", 303)
    filled = Filled(overrides, new_id, key)
    try:
        return RedirectResponse(_carry_out(visit, run, act, filled), 303)
    except RecoError as error:
        return _form(visit, run, act, filled, error)


def _carry_out(visit: Visit, run: RunDetails, act: Act, filled: Filled) -> str:
    """Do what was asked; returns the address of what to look at next."""
    runs, place = visit.service.runs, f"/{run.kind}s"
    if act == "stop":
        runs.stop(run.id)
    elif act == "delete":
        runs.delete(run.id)
        return f"{place}?done=delete"
    else:
        change = filled.change()
        visit.check_data(run, change)
        if act == "fork":
            return f"{place}/{runs.fork(run.id, change, key=filled.key or None).id}?done=fork"
        runs.resume(run.id, change)
    return f"{place}/{run.id}?done={act}"


def _form(visit: Visit, run: RunDetails, act: Act, filled: Filled, error: RecoError | None = None) -> Response:
    problem, hint = in_words(error) if error else (None, None)
    return visit.page(
        "action.html",
        status=409 if error else 200,
        run=run,
        act=act,
        filled=filled,
        problem=problem,
        hint=hint,
    )
