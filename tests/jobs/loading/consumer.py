"""One rank of a training that only looks at its data: writes a digest per step and lane, for tests that kill it."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from jobs.loading.process import LoaderProcess
from jobs.shards.order import Order


def main(url: str, out: str, rank: int, world_size: int, start: int, stop: int, seconds: float) -> None:
    """Consume the global steps start..stop-1, `seconds` each; a line of one word is the loader's process id."""
    with LoaderProcess(threads=1) as loader, Path(out).open("w", buffering=1) as file:
        dataset = loader.open(url)
        order = Order(dataset.counts, seed=5, lanes=4, global_batch_size=16, shuffle_shards=2)
        share = order.lanes // world_size
        lanes = range(rank * share, (rank + 1) * share)
        pid = None
        for batch in loader.stream(dataset, order, lanes=lanes, start=start, stop=stop, replace=True):
            if loader.pid != pid:
                pid = loader.pid
                file.write(f"{pid}\n")
            for place, lane in enumerate(lanes):
                digest = hashlib.sha256()
                for number in range(place * order.lane_batch_size, (place + 1) * order.lane_batch_size):
                    digest.update(int(batch.sample_ids[number]).to_bytes(8))
                    digest.update(batch.picture(number).tobytes())
                file.write(f"{batch.step} {lane} {digest.hexdigest()}\n")
            time.sleep(seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7]), float(sys.argv[7]))  # type: ignore[call-arg]
