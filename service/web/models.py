"""Pages of registered encoders: all, one with its history, and one version."""

from __future__ import annotations

from itertools import groupby

from fastapi import APIRouter
from fastapi.responses import Response

from jobs.tracking.errors import UnknownModelError
from service.contract.messages import ModelView
from service.web.session import Visit, Visited

router = APIRouter()


@router.get("/models")
def list_models(visit: Visited) -> Response:
    """All encoders, with their champions."""
    versions = visit.service.models.versions()
    by_name = {name: list(each) for name, each in groupby(versions, key=lambda version: version.name)}
    return visit.page("models.html", by_name=by_name)


@router.get("/models/{name}")
def show_model(visit: Visited, name: str, done: str = "") -> Response:
    """One encoder: its versions, and every change of its champion."""
    versions = versions_of(visit, name)
    history = visit.service.models.history(name)
    return visit.page("model.html", name=name, versions=versions, history=history, done=done)


@router.get("/models/{name}/versions/{number}")
def show_version(visit: Visited, name: str, number: int) -> Response:
    """One version with its card and its files."""
    return visit.page("version.html", version=visit.service.models.show(f"{name}/{number}"))


def versions_of(visit: Visit, name: str) -> list[ModelView]:
    """All versions of an encoder, the newest first.

    Raises:
        UnknownModelError: There is none.
    """
    versions = [each for each in visit.service.models.versions() if each.name == name]
    if not versions:
        raise UnknownModelError(f"no encoder {name!r} is registered.", hint="The list of models has those there are.")
    return versions
