"""What the measures of health are in runs that learn and in runs that go wrong on purpose.

    .venv/bin/python -m benchmarks.health --seeds 0 1 2

trains each case of `tests/provoked.py` for 200 steps with each seed, writes all measures as JSON and a picture of each
measure over the steps, and prints the range of each at the last half of the steps, with what the verdict said.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from jobs.run_folder import Record
from jobs.tracking.figures import overlaid_curves
from jobs.training.health import verdict
from tests.provoked import FAILURES, HEALTHY, STEPS, provoke

MEASURES = {
    "health/picture_std": "spread of the pictures",
    "health/ema_lag": "steps the key encoder is behind",
    "health/loss_over_chance": "contrast loss above chance",
    "health/update_ratio": "change of the weights in a step",
    "health/feature_std": "spread of the features",
    "health/rank_me": "directions used (RankMe)",
    "health/effective_negatives": "negatives that count",
    "health/key_in_queue": "own keys among the negatives (cosine)",
}


def main() -> None:
    arguments = parse()
    cases = HEALTHY | FAILURES
    found: dict[str, dict[int, list[Record]]] = {}
    for name in arguments.cases or cases:
        found[name] = {seed: provoke(cases[name], seed, Path(arguments.work)) for seed in arguments.seeds}
        print(row(name, found[name]), flush=True)
    out = Path(arguments.results)
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: {seed: measures(records) for seed, records in runs.items()} for name, runs in found.items()}
    (out / "health.json").write_text(json.dumps(kept) + "\n")
    seed = arguments.seeds[0]
    curves = {
        name: [{"step": r["step"], "pictures": r["pictures"], **r["metrics"]} for r in runs[seed]]
        for name, runs in found.items()
    }
    names = list(MEASURES)
    for part, chosen in {"causes": names[:4], "consequences": names[4:]}.items():
        shown = {name: MEASURES[name] for name in chosen}
        overlaid_curves(curves, shown, Path(arguments.images) / f"health-{part}.png", title=f"Health: {part}")


def measures(records: list[Record]) -> dict[str, list[float]]:
    """Each measure over the logging steps, to four digits."""
    steps = {"step": [float(record["step"]) for record in records]}
    return steps | {name: [float(f"{record['metrics'][name]:.4g}") for record in records] for name in MEASURES}


def row(name: str, runs: dict[int, list[Record]]) -> str:
    """A case in a line: the range of each measure over seeds and the last half of the steps, and the verdicts."""
    late = [record["metrics"] for records in runs.values() for record in records if record["step"] > STEPS // 2]
    late = late or [record["metrics"] for records in runs.values() for record in records]
    words = Counter(verdict(record["metrics"]).split(":")[0] for records in runs.values() for record in records)
    cells = []
    for measure in MEASURES:
        values = [metrics[measure] for metrics in late]
        cells.append(f"{min(values):.3g} to {max(values):.3g}" if values else "–")
    return f"| {name} | {' | '.join(cells)} | {', '.join(f'{word} {count}' for word, count in words.items())} |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=[*HEALTHY, *FAILURES], help="all by default")
    parser.add_argument("--work", default="build/health", help="where pictures and runs are kept")
    parser.add_argument("--results", default="docs/results", help="where the measures go")
    parser.add_argument("--images", default="docs/images", help="where the pictures go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
