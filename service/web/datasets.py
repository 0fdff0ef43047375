"""The page of data sets that runs were trained on."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from service.web.session import Visited

router = APIRouter()


@router.get("/datasets")
def list_datasets(visit: Visited) -> Response:
    """Every data set, the last used first."""
    with visit.slow.data.place():
        found = visit.service.runs.datasets()
    return visit.page("datasets.html", datasets=found)
