"""The MLflow runs below a sweep's: none is left running when nobody works at it."""

from __future__ import annotations

import functools

from jobs.sweeps.ledger import Trial
from jobs.tracking.client import client, explained, persistently

_PAGE = 1000


def close_runs(uri: str, sweep_id: str, trials: list[Trial]) -> None:
    """End the runs of trials whose process was killed before it could.

    Args:
        uri: Address of MLflow.
        sweep_id: The sweep, of which no trial is under way.
        trials: What became of them.

    Raises:
        TrackingError: MLflow did not answer or refused.
    """
    status = {trial.number: trial.status for trial in trials}
    statuses = {"failed": "FAILED", "running": "KILLED"}
    with explained(f"look for runs of sweep {sweep_id}", uri):
        experiments = [each.experiment_id for each in client(uri).search_experiments()]
        query = f"tags.`reco.sweep` = '{sweep_id}' and attributes.status = 'RUNNING'"
        runs = client(uri).search_runs(experiments, query, max_results=_PAGE)
    for run in runs:
        trial = int(run.data.tags.get("reco.trial", "-1"))
        ended = statuses.get(status.get(trial, "failed"), "FINISHED")
        persistently("end a run", uri, functools.partial(client(uri).set_terminated, run.info.run_id, status=ended))
