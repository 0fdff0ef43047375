"""Forms that change the champion of a model: promotion through the gates, and rollback."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import RedirectResponse, Response

from jobs.errors import RecoError
from service.api.problems import in_words
from service.contract.messages import Promotion, Rollback
from service.models.registry import MARGIN
from service.web.models import versions_of
from service.web.session import Visit, Visited

PROMOTE, ROLL_BACK = "promote_model", "roll_back_model"

router = APIRouter()

Reason = Annotated[str, Form(min_length=1, max_length=2000)]


@router.get("/models/{name}/promote")
def ask_to_promote(visit: Visited, name: str, version: int) -> Response:
    """The form for a promotion."""
    visit.require(PROMOTE)
    return _promotion(visit, name, version)


@router.post("/models/{name}/promote")
def promote(
    visit: Visited,
    name: str,
    version: Annotated[int, Form()],
    reason: Reason,
    margin: Annotated[float, Form(ge=0, le=100)] = MARGIN,
) -> Response:
    """Make a version the champion, if the gates let it pass."""
    visit.require(PROMOTE)
    try:
        with visit.slow.gates.place():
            visit.service.models.promote(Promotion(reference=f"{name}/{version}", reason=reason, margin=margin))
    except RecoError as error:
        return _promotion(visit, name, version, reason=reason, margin=margin, error=error)
    return RedirectResponse(f"/models/{name}?done=promote", 303)


@router.get("/models/{name}/rollback")
def ask_to_roll_back(visit: Visited, name: str) -> Response:
    """The form for a rollback."""
    visit.require(ROLL_BACK)
    return _rollback(visit, name)


@router.post("/models/{name}/rollback")
def roll_back(visit: Visited, name: str, reason: Reason) -> Response:
    """Bring back the champion before the last change."""
    visit.require(ROLL_BACK)
    try:
        with visit.slow.gates.place():
            visit.service.models.rollback(name, Rollback(reason=reason))
    except RecoError as error:
        return _rollback(visit, name, reason=reason, error=error)
    return RedirectResponse(f"/models/{name}?done=rollback", 303)


def _promotion(
    visit: Visit,
    name: str,
    number: int,
    *,
    reason: str = "",
    margin: float = MARGIN,
    error: RecoError | None = None,
) -> Response:
    versions = versions_of(visit, name)
    problem, hint = in_words(error) if error else (None, None)
    return visit.page(
        "promote.html",
        status=409 if error else 200,
        name=name,
        number=number,
        version=next((each for each in versions if each.version == number), None),
        champion=next((each for each in versions if "champion" in each.aliases), None),
        reason=reason,
        margin=margin,
        problem=problem,
        hint=hint,
    )


def _rollback(visit: Visit, name: str, *, reason: str = "", error: RecoError | None = None) -> Response:
    problem, hint = in_words(error) if error else (None, None)
    return visit.page(
        "rollback.html",
        status=409 if error else 200,
        name=name,
        history=visit.service.models.history(name),
        reason=reason,
        problem=problem,
        hint=hint,
    )
