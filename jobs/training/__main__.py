"""The loop without Ray and MLflow: `python -m jobs.training SPEC --storage FOLDER`, or the same under torchrun."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from jobs.checkpoints.fence import FencedError
from jobs.errors import RecoError
from jobs.job_folder import failed
from jobs.run_folder import RunFolder
from jobs.spec import load_spec
from jobs.training.ranks import ranks_from_environment
from jobs.training.run import run


def main() -> int:
    """Run one rank; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.training", description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--storage", default="runs", help="folder or S3 prefix that holds the runs")
    parser.add_argument("--run-id", help="continue or name a run; the spec's name by default")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    ours: RunFolder | None = None  # once it is: another experiment of that id keeps its outcome
    try:
        spec = load_spec(arguments.spec, arguments.overrides)
        folder = RunFolder(arguments.storage, arguments.run_id or spec.name)
        with ranks_from_environment(spec.scale.cpus_per_worker) as ranks:
            if ranks.is_first:
                folder.claim(spec)
                folder.begin_attempt()
                ours = folder
            results = run(spec, folder, ranks)
            if ours is not None:
                status = "stopped" if results is None else "succeeded"
                ours.write_outcome({"status": status, "exit_code": 0, "results": results or {}})
                print(json.dumps(results, indent=1))  # noqa: T201
    except RecoError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        if ours is not None and not isinstance(error, FencedError):
            ours.write_outcome(failed(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
