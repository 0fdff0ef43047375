"""A worker keeps several parts under way, and gives them in their order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.embedding.encoder import pack_encoder
from jobs.embedding.sources import Source, Unusable, open_source
from jobs.embedding.worker import BATCH, Worker, parts_at_once, spans

PATIENCE_S = 60.0


class HeldUp:
    """A source whose first pictures are read once those of the third part have been asked for."""

    def __init__(self, source: Source, third: int) -> None:
        self._source, self._third = source, third
        self._asked = threading.Event()
        self.gave_up = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def read(self, start: int, stop: int) -> Iterator[bytes | Unusable]:
        if start >= self._third:
            self._asked.set()
        if start == 0:
            self.gave_up = not self._asked.wait(PATIENCE_S)
        return self._source.read(start, stop)


@pytest.mark.timeout(180)
def test_the_next_parts_are_begun_before_the_first_is_done_and_come_in_their_order(encoder: Path, photos: Path) -> None:
    packed, source = pack_encoder(str(encoder), Path("unused")), open_source([str(photos)])
    parts = list(spans(len(source), BATCH))
    held_up = HeldUp(source, third=2 * BATCH)
    with Worker(packed.unpack(torch.device("cpu")), held_up, threads=2) as worker:  # type: ignore[arg-type]
        embedded = list(worker.embed_each(parts))
        assert not held_up.gave_up, "a part is waited for before the next one is begun"
        assert [key for part in embedded for key in part.keys] == source.keys(0, len(source))
        for part, span in zip(embedded, parts, strict=True):
            np.testing.assert_array_equal(part.features, worker.embed(span.start, span.stop).features)


@pytest.mark.parametrize(
    ("threads", "size", "at_once"), [(1, 8, 2), (8, 8, 2), (9, 8, 3), (32, 8, 5), (2, 1, 3), (32, 5, 8)]
)
def test_there_are_batches_for_every_thread_and_a_part_to_spare(threads: int, size: int, at_once: int) -> None:
    assert parts_at_once(threads, list(spans(20 * BATCH, size * BATCH))) == at_once
