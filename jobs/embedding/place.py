"""Where a job runs, told without importing Ray."""

from __future__ import annotations

import os


def at_a_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster, rather than leaving the job to this machine."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"
