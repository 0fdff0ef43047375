"""Workers on a cluster: Ray Data hands out parts and brings back finished ones; nothing but the driver writes."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ray
import ray.data

from jobs.child import portable
from jobs.embedding.cluster import Share
from jobs.embedding.encoder import PackedEncoder
from jobs.embedding.parts import to_bytes
from jobs.embedding.sources import Source
from jobs.embedding.worker import Skipped, Worker, parts_at_once
from jobs.training.ranks import pick_device


class Finished(NamedTuple):
    """A part that is done.

    Attributes:
        number: Which.
        data: Its parquet file.
        skipped: Pictures that are missing from it.
    """

    number: int
    data: bytes
    skipped: list[Skipped]


def embed_on_cluster(
    encoder: PackedEncoder, source: Source, parts: Sequence[tuple[int, range]], share: Share
) -> Iterator[Finished]:
    """Embed parts on the cluster this process has joined; they come as they are done.

    A worker that dies is started again by Ray, and its part with it.

    Args:
        encoder: The encoder.
        source: The pictures; every worker must be able to read them.
        parts: Number and positions of each.
        share: How many workers there are, and what each has.

    Raises:
        RecoError: Pictures cannot be had, or a worker failed otherwise.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"part": number, "start": span.start, "stop": span.stop} for number, span in parts]
    kept = ray.put(encoder), ray.put(source)  # held here, or a worker that is started again would miss them
    at_once = parts_at_once(share.cpus, [span for _, span in parts])
    # A block for each part: else Ray would cut its input by the number of cores, and lose more where a worker dies.
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _RayWorker,
        fn_constructor_args=(*kept, share.cpus),
        compute=ray.data.ActorPoolStrategy(
            size=min(share.workers, len(rows)),
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,  # else a worker would have one part under way
        ),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
    )
    for row in done.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield Finished(int(row["part"]), row["data"], [Skipped(*each) for each in json.loads(row["skipped"])])


class _RayWorker:
    """What Ray keeps in each worker's process: the encoder is loaded once."""

    def __init__(self, encoder: ray.ObjectRef, source: ray.ObjectRef, threads: int) -> None:
        packed: PackedEncoder = ray.get(encoder)
        self._worker = Worker(packed.unpack(pick_device(0)), ray.get(source), threads=threads)

    def __call__(self, row: dict[str, int]) -> dict[str, object]:
        """Embed a part, beside others; an error comes back as a value: Ray Data would wrap and print it."""
        try:
            part = self._worker.embed(row["start"], row["stop"])
        except Exception as error:  # noqa: BLE001 - the driver raises it
            told = pickle.dumps(portable(error, who="worker"))
            return {"part": row["part"], "data": b"", "skipped": "[]", "error": told}
        return {
            "part": row["part"],
            "data": to_bytes(part),
            "skipped": json.dumps([list(each) for each in part.skipped]),
            "error": b"",
        }
