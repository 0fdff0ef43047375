"""Reading a block in parts, several at once: one connection gives a fraction of what an accelerator takes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from jobs.loading.slots import StoppedError
from jobs.shards.dataset import Dataset

AT_ONCE = 4
"""Most parts of one block that are read at once."""

_SIZE = 16 << 20


class Part(NamedTuple):
    """Consecutive bytes of a shard, and where they go."""

    shard: int
    start: int
    buffer: memoryview


def divide(stretches: Iterable[Part]) -> list[Part]:
    """Cut stretches of shards into parts; those of different shards alternate.

    A cache downloads a shard whole for whoever comes first: readers of one shard would all wait for one connection.
    """
    cut = [
        [Part(shard, start + place, buffer[place : place + _SIZE]) for place in range(0, len(buffer), _SIZE)]
        for shard, start, buffer in stretches
    ]
    return [part for row in itertools.zip_longest(*cut) for part in row if part is not None]


def read_parts(
    dataset: Dataset,
    parts: Sequence[Part],
    stopped: Callable[[], bool],
    helpers: ThreadPoolExecutor | None,
    at_once: int,
) -> None:
    """Read all parts, `at_once` of them where helpers are idle, one in this thread; then nobody writes any more.

    Raises:
        StoppedError: `stopped`, asked before each part, said so.
        StorageError: A part cannot be read.
    """
    left = deque(parts)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors:
                try:
                    part = left.popleft()
                except IndexError:
                    return
                if stopped():
                    raise StoppedError
                dataset.read_shard(*part)
        except BaseException as error:  # noqa: BLE001 - it is raised below, by the thread that was asked
            errors.append(error)

    extra = 0 if helpers is None else min(at_once, len(parts)) - 1
    helping = [helpers.submit(work) for _ in range(extra)] if helpers is not None else []
    work()
    for helper in helping:
        if not helper.cancel():
            helper.result()  # it may still be filling its part of the buffer
    if errors:
        del errors[1:]  # an error that is held by a frame it knows of would keep the buffer from being freed
        raise errors.pop()
