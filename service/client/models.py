"""Registered encoders and their champions over HTTP, for the contract."""

from __future__ import annotations

import re
from urllib.parse import quote

from jobs.tracking.errors import UnknownModelError
from service.client.http import LONG_READ_S, Http
from service.contract.interface import Models
from service.contract.messages import ChampionChange, ModelDetails, ModelHistory, ModelView, Promotion, Rollback

_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<number>[0-9]+)|(?P<alias>@[^/@]+))?")


class HttpModels(Models):
    """Encoders, asked for over HTTP.

    Args:
        http: The API.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    def versions(self) -> list[ModelView]:
        """See `Models.versions`."""
        return self._http.get("/v1/models", list[ModelView])

    def show(self, reference: str) -> ModelDetails:
        """See `Models.show`."""
        name, version = _parts(reference)
        path = _path(name) if version is None else f"{_path(name)}/versions/{quote(version, safe='@')}"
        return self._http.get(path, ModelDetails)

    def history(self, name: str) -> ModelHistory:
        """See `Models.history`."""
        return self._http.get(f"{_path(_parts(name)[0])}/history", ModelHistory)

    def promote(self, promotion: Promotion) -> ChampionChange:
        """See `Models.promote`. The gates take their time, and it is never repeated: the history says what became."""
        reference = promotion.reference.strip().removeprefix("models:/")
        path = f"{_path(_parts(reference)[0])}/promotions"
        wish = promotion.model_copy(update={"reference": reference})
        return self._http.post(path, ChampionChange, wish, read_s=LONG_READ_S)

    def rollback(self, name: str, wish: Rollback) -> ChampionChange:
        """See `Models.rollback`."""
        return self._http.post(f"{_path(_parts(name)[0])}/rollbacks", ChampionChange, wish, read_s=LONG_READ_S)


def _parts(reference: str) -> tuple[str, str | None]:
    """Name, and number or `@alias`.

    Raises:
        UnknownModelError: It names no model.
    """
    found = _REFERENCE.fullmatch(reference.strip())
    if found is None or found["name"] in (".", ".."):
        raise UnknownModelError(
            f"{reference!r} names no model.", hint="Write `name`, `name@alias` or `name/3`; `reco models list` has all."
        )
    return found["name"], found["number"] or found["alias"]


def _path(name: str) -> str:
    return f"/v1/models/{quote(name, safe='')}"
