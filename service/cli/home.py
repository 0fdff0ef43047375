"""The folder of this project's local state, and the MLflow server that is used."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder for local state: `RECO_HOME`, or `~/.reco`. It may not exist yet."""
    return Path(os.environ.get("RECO_HOME") or "~/.reco").expanduser().absolute()


def tracking() -> str:
    """Return the address of the MLflow server: `MLFLOW_TRACKING_URI`, or a local one, which is started if need be.

    Raises:
        TrackingUnreachableError: None answers there.
    """
    from jobs.tracking.server import tracking_uri  # late: no command without MLflow should wait for it
    from service.cli import output

    return tracking_uri(home(), progress=output.note)
