"""What a spec will do, in numbers, before anything is started: `python -m jobs.plan SPEC`, one line of JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from jobs.errors import RecoError
from jobs.loading.process import LoaderProcess
from jobs.spec import load_spec
from jobs.training.plan import make_plan, open_data


def main() -> int:
    """Print the plan, or what stands against it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.plan", description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()
    try:
        spec = load_spec(arguments.spec, arguments.overrides)
        with LoaderProcess(cache=spec.scale.cache) as loader:
            data = open_data(spec, loader)
        plan = make_plan(spec, data.train, probes=data.probes)
    except RecoError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))  # noqa: T201
        return error.exit_code
    print(  # noqa: T201
        json.dumps(
            {
                "words": str(plan),
                "pictures": len(data.train),
                "left_out": data.train.left_out,
                "workers": spec.scale.workers,
                "total_steps": plan.total_steps,
                "steps_per_epoch": plan.steps_per_epoch,
                "pictures_per_rank": plan.pictures_per_rank,
                "loader_bytes": plan.loader_bytes,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
