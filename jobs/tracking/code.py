"""Which code a run was made with."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path


def code_version() -> str:
    """The commit this code stands at, with `-dirty` where files differ from it; outside a checkout, the version."""
    here = Path(__file__).resolve().parent
    describe = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return version("reco-training")
    return found.stdout.strip() if found.returncode == 0 else version("reco-training")
