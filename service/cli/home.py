"""The folder of this project's local state."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder for local state: `RECO_HOME`, or `~/.reco`. It may not exist yet."""
    return Path(os.environ.get("RECO_HOME") or "~/.reco").expanduser().absolute()
