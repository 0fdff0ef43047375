"""Time and memory of planning one rank of 64 over 10⁹ samples in 10⁵ shards, from the middle of an epoch.

.venv/bin/python -m benchmarks.plan
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from benchmarks.measure import spread
from jobs.shards.order import Order

SHARDS, SAMPLES, RANKS, LANES, BATCH = 100_000, 1_000_000_000, 64, 256, 16_384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    counts = random.multinomial(SAMPLES, np.full(SHARDS, 1 / SHARDS)).astype(np.int64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for run in range(arguments.runs):
        start = time.perf_counter()
        order = Order(counts, seed=run, lanes=LANES, global_batch_size=BATCH, shuffle_shards=4)
        rank = run * 7 % RANKS
        lanes = range(rank * LANES // RANKS, (rank + 1) * LANES // RANKS)
        ids = order.batch(3, order.steps_per_epoch // 2, lanes)
        seconds.append(time.perf_counter() - start)
        assert len(np.unique(ids)) == BATCH // RANKS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"one rank of {RANKS}, {SAMPLES:,} samples in {SHARDS:,} shards: {spread([1e3 * s for s in seconds])} ms")
    print(f"memory beyond the shards' counts: {grown:.0f} MiB")
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump({"ms": [1e3 * s for s in seconds], "memory_mib": grown}, file, indent=1)


if __name__ == "__main__":
    main()
