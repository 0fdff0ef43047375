"""Queries that say something nobody listens to are refused: `?stat=failed` would list runs of all states."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from jobs.spec.describe import closest
from service.api.errors import UnknownParameterError

_KNOWN: dict[str, frozenset[str]] = {}  # by operation, found when first asked for


async def only_known(request: Request) -> None:
    """Refuse a query with a parameter that its route has not.

    Raises:
        UnknownParameterError: There is one.
    """
    if not request.scope["query_string"]:
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = _parameters(route)
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        near = closest(unknown[0], known)
        meant = f"Did you mean `{near}`?" if near else f"There are: {', '.join(sorted(known)) or 'none'}."
        raise UnknownParameterError(f"`{unknown[0]}` is no parameter of this address.", hint=meant)


def _parameters(route: APIRoute) -> frozenset[str]:
    name = route.operation_id or route.name
    if name not in _KNOWN:
        _KNOWN[name] = frozenset(_named(route.dependant))
    return _KNOWN[name]


def _named(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for each in dependant.dependencies:
        yield from _named(each)
