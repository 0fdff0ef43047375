"""The data sets that runs were trained on, and what their indexes say of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jobs.errors import RecoError
from jobs.shards.index import load_root
from jobs.shards.sources import find_shards
from jobs.storage import NotFoundError
from service.contract.messages import DatasetView
from service.control.job import PATIENCE_S
from service.control.specs import data_of
from service.runs.listing import LARGEST_PAGE, RunList
from service.runs.wanted import Wanted

MOST = 50
"""Data sets that are told of: each takes a listing of its folder."""


@dataclass
class _Used:
    runs: int
    last: datetime


def used(listed: RunList, project: str | None) -> list[DatasetView]:
    """The data sets of the latest runs, the last used first.

    Args:
        listed: The runs.
        project: Only those of one.
    """
    found: dict[str, _Used] = {}
    for run in listed.page(Wanted(project=project), limit=LARGEST_PAGE).runs:
        for url in data_of(run.spec):
            found.setdefault(url, _Used(0, run.created)).runs += 1
    return [_described(url, use) for url, use in list(found.items())[:MOST]]


def _described(url: str, use: _Used) -> DatasetView:
    view = DatasetView(url=url, runs=use.runs, last=use.last)
    try:
        roots = [
            load_root(*part.index_place(None, patience_s=PATIENCE_S))
            for part in find_shards(url, patience_s=PATIENCE_S)
        ]
    except NotFoundError:
        return view.model_copy(update={"problem": "it has no index beside its shards"})
    except RecoError as error:
        return view.model_copy(update={"problem": error.message})
    entries = [entry for root in roots for entry in root.shards]
    pictures = sum(entry.count for entry in entries)
    return view.model_copy(
        update={
            "pictures": pictures,
            "shards": len(entries),
            "bytes": sum(entry.size for entry in entries),
            "hash": roots[0].content if len(roots) == 1 else None,
            "labelled": pictures > 0 and sum(entry.labelled for entry in entries) == pictures,
        }
    )
