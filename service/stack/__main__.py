"""The supervisor as a process: `python -m service.stack HOME OPTIONS`; `reco up` starts it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from service.stack.layout import Layout
from service.stack.lifecycle import supervise
from service.stack.record import Options


def main(home: str, options: str) -> int:
    """Supervise until told to end; returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    return supervise(Layout(Path(home)), Options.model_validate_json(options))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
