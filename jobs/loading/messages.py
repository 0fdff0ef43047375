"""What the trainer and its loader process say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jobs.loading.batch import Replaced
from jobs.loading.detail import Detail
from jobs.shards.order import SampleOrder


@dataclass(frozen=True)
class Opened:
    """What the trainer knows of a data set.

    Attributes:
        number: What its loader process calls it.
        hash: Of its content.
        counts: Samples per shard, int64[shards].
        left_out: Samples that cannot be used, found when it was indexed; not counted.
        num_classes: Largest label + 1; 0 without labels.
        longest: Longest side of a picture, in pixels.
        most_pixels: Most pixels of a picture.
        shard_sizes: Bytes of each shard, int64[shards].
        labels: Class of each sample, int64[n], where they were asked for and there are any.
    """

    number: int
    hash: str
    counts: NDArray[np.int64]
    left_out: int
    num_classes: int
    longest: int
    most_pixels: int
    shard_sizes: NDArray[np.int64]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True)
class Counters:
    """What was done for a stream since it began; all of it only ever grows.

    Attributes:
        bytes_read: From storage, by the whole process.
        retries: Requests that had to be made again.
        pictures: Decoded.
        decode_s: CPU seconds of decoding.
        replaced: Pictures that others stood in for.
        restarts: How often the process died and was started again.
    """

    bytes_read: int = 0
    retries: int = 0
    pictures: int = 0
    decode_s: float = 0.0
    replaced: int = 0
    restarts: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(**{name: getattr(self, name) + getattr(other, name) for name in vars(self)})

    def __sub__(self, other: Counters) -> Counters:
        return Counters(**{name: getattr(self, name) - getattr(other, name) for name in vars(self)})


# From the trainer.


@dataclass(frozen=True)
class Open:
    """Open a data set; answered by `Opened` or `Failed`."""

    number: int
    source: str | tuple[str, ...]
    index: str | None
    labels: bool
    cache: tuple[str, int] | None
    """Folder and most bytes."""


@dataclass(frozen=True)
class Start:
    """Begin a stream; the descriptor of its ring follows. Answered by `Filled`, then `Ended` or `Failed`."""

    stream: int
    dataset: int
    order: SampleOrder
    lanes: range
    start: int
    stop: int
    threads: int
    slots: int
    slot_size: int
    free: tuple[int, ...]
    detail: Detail | None
    replace: bool


@dataclass(frozen=True)
class Release:
    """A slot may be written again."""

    stream: int
    slot: int


@dataclass(frozen=True)
class Stop:
    """End a stream; nothing more comes from it."""

    stream: int


@dataclass(frozen=True)
class Ask:
    """Say what you are waiting for; answered by `Waiting`."""


# From the loader process.


@dataclass(frozen=True)
class Filled:
    """A batch lies in a slot; the fields are those of `Batch`."""

    stream: int
    slot: int
    size: int
    step: int
    epoch: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sample_ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    replaced: tuple[Replaced, ...]
    counters: Counters


@dataclass(frozen=True)
class Ended:
    """A stream's last batch was sent."""

    stream: int


@dataclass(frozen=True)
class Failed:
    """A request or stream ended with an error."""

    number: int
    error: BaseException
    of_stream: bool


@dataclass(frozen=True)
class Waiting:
    """What the process is at.

    Attributes:
        reads: Reads under way, longest first, each in words.
        bytes_read: By the whole process so far, those of reads under way included: where it grows there is progress.
    """

    reads: list[str] = field(default_factory=list)
    bytes_read: int = 0
