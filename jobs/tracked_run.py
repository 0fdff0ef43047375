"""A run that MLflow hears of: opened under its own id, trained, and told what its workers computed with and met."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jobs.attempt import Work
from jobs.errors import RecoError
from jobs.run_folder import RunFolder
from jobs.spec import RunSpec
from jobs.spec.models import OUTSIDE_THE_HASH
from jobs.supervisor import train
from jobs.tracking.code import code_version
from jobs.tracking.runs import TrackedRun, open_run
from jobs.training.run import run

_log = logging.getLogger("reco.run")
_EXAMPLES = 3  # of bad pictures that MLflow shows without opening the list


def open_tracked(
    spec: RunSpec, folder: RunFolder, uri: str, *, name: str, dataset_hash: str, tags: Mapping[str, object]
) -> TrackedRun:
    """Open the MLflow run of a run, new or not.

    Args:
        spec: What is trained.
        folder: The run's.
        uri: Address of MLflow.
        name: For people.
        dataset_hash: Of the index of what it trains on.
        tags: What else to say of it.

    Raises:
        TrackingError: MLflow did not answer or refused.
    """
    return open_run(
        uri,
        experiment="reco",
        run_id=folder.run_id,
        name=name,
        # How the run is carried out may change between attempts, what it is may not: params can never change.
        params=spec.model_dump(mode="json", exclude=OUTSIDE_THE_HASH),
        tags={
            "reco.spec_hash": spec.hash,
            "reco.dataset_hash": dataset_hash,
            "reco.code": code_version(),
            "reco.workers": spec.scale.workers,
            **tags,
        },
    )


def train_tracked(
    spec: RunSpec, folder: RunFolder, tracked: TrackedRun, *, work: Work = run
) -> dict[str, float] | None:
    """Train a run as `jobs.supervisor.train` does, and tell MLflow what only its workers know, however it ends."""
    try:
        return train(spec, folder, tracked, work=work)
    finally:
        _log_attempt(folder, tracked)
        _log_quarantine(folder, tracked)


def _log_attempt(folder: RunFolder, tracked: TrackedRun) -> None:
    """Tell MLflow what the last attempt computed with, which only its workers know."""
    try:
        for attempt in folder.attempts()[-1:]:
            tracked.set_tags({f"reco.{name}": value for name, value in attempt.items() if name != "token"})
    except RecoError as error:  # how the training ended matters more
        _log.warning("MLflow could not be told what was computed with: %s", error)


def _log_quarantine(folder: RunFolder, tracked: TrackedRun) -> None:
    """Tell MLflow of the pictures that could not be used, where there were any."""
    bad = folder.quarantine()
    if not bad:
        return
    first = "; ".join(f"{each['key']}: {each['reason']}" for each in bad[:_EXAMPLES])
    _log.warning("%d pictures could not be used, listed in %s/quarantine: %s", len(bad), folder.url, first)
    try:
        tracked.set_tags({"reco.bad_pictures": len(bad), "reco.bad_pictures_first": first})
        with tempfile.TemporaryDirectory() as temporary:
            listed = Path(temporary) / "quarantine.jsonl"
            listed.write_text("".join(json.dumps(each) + "\n" for each in bad))
            tracked.log_artifact(listed)
    except RecoError as error:  # how the training ended matters more
        _log.warning("MLflow could not be told of them: %s", error)
