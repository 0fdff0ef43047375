"""Registered encoders and their champions over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from service.api.errors import MismatchError
from service.api.queries import only_known
from service.api.roles import Asked, authorised
from service.api.slow import Slow
from service.contract.messages import ChampionChange, ModelDetails, ModelHistory, ModelView, Promotion, Rollback

router = APIRouter(prefix="/v1", dependencies=[Depends(authorised), Depends(only_known)], tags=["models"])

Name = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}$", description="Registered model.", examples=["photos-encoder"]),
]
Version = Annotated[
    str,
    Path(
        pattern=r"^(@?[A-Za-z][A-Za-z0-9._-]{0,127}|[1-9][0-9]{0,8})$",
        description="A number, or an alias such as `@champion`.",
        examples=["3", "@champion"],
    ),
]


@router.get("/models", operation_id="list_models", summary="Every version of every encoder")
def list_models(service: Asked) -> list[ModelView]:
    """By name, the newest first."""
    return service.models.versions()


@router.get("/models/{name}", operation_id="show_model", summary="The champion of a model")
def show_model(service: Asked, name: Name) -> ModelDetails:
    """The newest version where there is no champion."""
    return service.models.show(name)


@router.get("/models/{name}/versions/{version}", operation_id="show_model_version", summary="One version of a model")
def show_model_version(service: Asked, name: Name, version: Version) -> ModelDetails:
    """By its number or an alias."""
    return service.models.show(f"{name}/{version}" if version.isdigit() else f"{name}@{version.removeprefix('@')}")


@router.get("/models/{name}/history", operation_id="show_model_history", summary="Every change of a champion")
def show_model_history(service: Asked, name: Name) -> ModelHistory:
    """The oldest first."""
    return service.models.history(name)


@router.post("/models/{name}/promotions", operation_id="promote_model", summary="Make an encoder the champion")
def promote_model(service: Asked, request: Request, name: Name, promotion: Promotion) -> ChampionChange:
    """Where every gate lets it pass, which may take minutes; 409 where one does not."""
    if promotion.reference.replace("@", "/").partition("/")[0] != name:
        raise MismatchError(
            f"{promotion.reference} is no version of {name}.", hint=f"Write {name}, {name}/VERSION or {name}@ALIAS."
        )
    with _slow(request).gates.place():
        return service.models.promote(promotion)


@router.post("/models/{name}/rollbacks", operation_id="roll_back_model", summary="Bring back the champion before")
def roll_back_model(service: Asked, request: Request, name: Name, wish: Rollback | None = None) -> ChampionChange:
    """The one before the last change, if it is still whole."""
    with _slow(request).gates.place():
        return service.models.rollback(name, wish or Rollback())


def _slow(request: Request) -> Slow:
    slow: Slow = request.app.state.slow
    return slow
