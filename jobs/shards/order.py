"""The order in which samples are seen: a pure function of integers, the same for every number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.errors import UserError

# What a stream of random numbers is for; part of its counter, so no two uses ever share numbers.
_SHARDS, _ROTATION, _BLOCK = 1, 2, 3


@dataclass(frozen=True)
class Block:
    """A stretch of a lane whose samples are shuffled among themselves.

    Args:
        shards: Shard numbers of its pieces, int64[pieces].
        firsts: First sample of each piece, counted within its shard, int64[pieces].
        counts: Samples of each piece, int64[pieces].
        shuffle: Key and counter words of its permutation, or None for the natural order.
    """

    shards: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    shuffle: tuple[int, int, int, int, int] | None

    def __len__(self) -> int:
        return int(self.counts.sum())

    def permutation(self) -> NDArray[np.int64] | None:
        """For each place in the block, which of its samples (numbered piece by piece) stands there."""
        if self.shuffle is None:
            return None
        seed, epoch, *counter = self.shuffle
        return permutation(len(self), seed, epoch, counter)


class LanePlan:
    """One lane of one epoch as a row of blocks.

    Args:
        shards: As in `Block`, for the whole lane.
        firsts: As in `Block`.
        counts: As in `Block`; none is 0.
        per_block: Pieces per block.
        shuffle: (seed, epoch, lane), or None for the natural order.
    """

    def __init__(
        self,
        shards: NDArray[np.int64],
        firsts: NDArray[np.int64],
        counts: NDArray[np.int64],
        *,
        per_block: int,
        shuffle: tuple[int, int, int] | None,
    ) -> None:
        self._pieces = shards, firsts, counts
        self._per_block = per_block
        self._shuffle = shuffle
        ends = np.concatenate([[0], np.cumsum(counts)])
        self._starts = ends[:-1][::per_block]
        self.length = int(ends[-1])

    def __len__(self) -> int:
        return len(self._starts)

    def find(self, position: int) -> tuple[int, int]:
        """The block that holds a position of the lane, and the place within it."""
        block = int(np.searchsorted(self._starts, position, side="right")) - 1
        return block, position - int(self._starts[block])

    def block(self, number: int) -> Block:
        """The lane's block `number`, counted from 0."""
        part = slice(number * self._per_block, (number + 1) * self._per_block)
        shards, firsts, counts = (column[part] for column in self._pieces)
        shuffle = None
        if self._shuffle is not None:
            seed, epoch, lane = self._shuffle
            shuffle = (seed, epoch, number, lane, _BLOCK)
        return Block(shards, firsts, counts, shuffle)


class SampleOrder(Protocol):
    """What the loader needs of an order."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""

    @property
    def lane_batch_size(self) -> int:
        """Samples that a batch takes from each lane."""

    def plan(self, epoch: int, lane: int) -> LanePlan:
        """One lane's blocks in an epoch."""


class Order:
    """Which samples make up each global batch.

    Every epoch permutes the shards by (seed, epoch), rotates the row of all their samples by a random amount, so that
    another tail is left over each time, and cuts it into as many equal spans as there are lanes. Within a lane samples
    are shuffled in blocks of `shuffle_shards` shards. A global batch takes the same number from every lane. Nothing
    here depends on ranks, threads or on what was asked before: resuming is asking for a later position.

    Random numbers are the raw output of Philox-4x64-10 (Salmon et al., 2011), turned into permutations by a stable
    sort: unlike `Generator.permutation`, these cannot change with numpy's version.

    Args:
        counts: Samples per shard in natural order, int64[shards].
        seed: 0 ≤ seed < 2⁶⁴.
        lanes: C; must divide `global_batch_size`.
        global_batch_size: Samples per step over all workers.
        shuffle_shards: Shards per block, at least 1.

    Raises:
        UserError: There are fewer samples than one global batch.
        ValueError: Numbers that do not fit each other.
    """

    def __init__(
        self,
        counts: NDArray[np.int64] | Sequence[int],
        *,
        seed: int,
        lanes: int,
        global_batch_size: int,
        shuffle_shards: int,
    ) -> None:
        if lanes < 1 or global_batch_size < 1 or global_batch_size % lanes:
            raise ValueError(f"{lanes} lanes do not divide a global batch of {global_batch_size}")
        if shuffle_shards < 1:
            raise ValueError(f"shuffle_shards must be at least 1, not {shuffle_shards}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"the seed must fit 64 bits without a sign, not {seed}")
        self.lanes = lanes
        self.lane_batch_size = global_batch_size // lanes
        self._counts = np.asarray(counts, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self._total = int(self._starts[-1])
        self._seed = seed
        self._shuffle_shards = shuffle_shards
        self.steps_per_epoch = self._total // global_batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"The data set has {self._total} samples, fewer than one global batch of {global_batch_size}.",
                hint="Lower train.global_batch_size, or add data.",
            )
        # Both caches hold what was asked last, and are replaced whole: threads may race, and both be right.
        self._epoch: tuple[int, NDArray[np.int64], NDArray[np.int64], int] | None = None
        self._blocks: dict[int, tuple[int, int, NDArray[np.int64]]] = {}
        self._plans: dict[int, tuple[int, LanePlan]] = {}

    def batch(self, epoch: int, position: int, lanes: range) -> NDArray[np.int64]:
        """Sample ids of some lanes' share of one global batch.

        Args:
            epoch: From 0.
            position: Step within the epoch, from 0 to `steps_per_epoch` - 1.
            lanes: Which lanes.

        Returns:
            int64[len(lanes) · global_batch_size / C], lane-major: all of the first lane's, then the next's.
        """
        if not 0 <= position < self.steps_per_epoch:
            raise ValueError(f"step {position} is outside an epoch of {self.steps_per_epoch}")
        first = position * self.lane_batch_size
        parts = [self._lane_ids(epoch, lane, first, first + self.lane_batch_size) for lane in lanes]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def plan(self, epoch: int, lane: int) -> LanePlan:
        """The row of blocks that `lane` walks through in `epoch`; its length is steps · `lane_batch_size`."""
        if not 0 <= lane < self.lanes:
            raise ValueError(f"lane {lane} is outside 0..{self.lanes - 1}")
        known = self._plans.get(lane)
        if known is not None and known[0] == epoch:
            return known[1]
        permuted, ends, rotation = self._shard_row(epoch)
        length = self.steps_per_epoch * self.lane_batch_size
        start = (rotation + lane * length) % self._total
        stop = start + length
        # A span may run over the end of the row and go on at its beginning.
        pieces = [self._cut(permuted, ends, start, min(stop, self._total))]
        if stop > self._total:
            pieces.append(self._cut(permuted, ends, 0, stop - self._total))
        shards, firsts, counts = (np.concatenate(column) for column in zip(*pieces, strict=True))
        shuffle = (self._seed, epoch, lane)
        plan = LanePlan(shards, firsts, counts, per_block=self._shuffle_shards, shuffle=shuffle)
        self._plans[lane] = (epoch, plan)
        return plan

    def _lane_ids(self, epoch: int, lane: int, first: int, stop: int) -> NDArray[np.int64]:
        plan = self.plan(epoch, lane)
        parts = []
        while first < stop:
            number, place = plan.find(first)
            ids = self._block_ids(epoch, lane, number, plan)[place : place + stop - first]
            parts.append(ids)
            first += len(ids)
        return np.concatenate(parts)

    def _block_ids(self, epoch: int, lane: int, number: int, plan: LanePlan) -> NDArray[np.int64]:
        known = self._blocks.get(lane)
        if known is not None and known[:2] == (epoch, number):
            return known[2]
        block = plan.block(number)
        ids = spans(self._starts[block.shards] + block.firsts, block.counts)
        shuffled = block.permutation()
        ids = ids if shuffled is None else ids[shuffled]
        self._blocks[lane] = (epoch, number, ids)
        return ids

    def _shard_row(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Shards in this epoch's order, where each ends in the row of all samples, and how far the row is rotated."""
        known = self._epoch
        if known is None or known[0] != epoch:
            permuted = permutation(len(self._counts), self._seed, epoch, [0, 0, _SHARDS])
            rotation = int(raw(1, self._seed, epoch, [0, 0, _ROTATION])[0]) % self._total
            known = (epoch, permuted, np.cumsum(self._counts[permuted]), rotation)
            self._epoch = known
        return known[1:]

    def _cut(
        self, permuted: NDArray[np.int64], ends: NDArray[np.int64], start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The pieces of shards that make up [start, stop) of the row."""
        low = int(np.searchsorted(ends, start, side="right"))
        high = int(np.searchsorted(ends, stop, side="left")) + 1
        shards, shard_ends = permuted[low:high], ends[low:high]
        shard_starts = shard_ends - self._counts[shards]
        firsts = np.maximum(start - shard_starts, 0)
        counts = np.minimum(stop, shard_ends) - shard_starts - firsts
        some = counts > 0  # empty shards have no place in a block
        return shards[some], firsts[some], counts[some]


class NaturalOrder:
    """The samples [start, stop) as stored, in one lane: `Order`'s interface for reading a data set through."""

    lanes = 1

    def __init__(self, counts: NDArray[np.int64], *, start: int, stop: int, batch_size: int) -> None:
        self.lane_batch_size = batch_size
        self.steps_per_epoch = -(-(stop - start) // batch_size)
        ends = np.cumsum(counts)
        firsts = np.maximum(start - (ends - counts), 0)
        pieces = np.minimum(stop, ends) - (ends - counts) - firsts
        (shards,) = np.nonzero(pieces > 0)
        self._plan = LanePlan(shards, firsts[shards], pieces[shards], per_block=1, shuffle=None)

    def plan(self, epoch: int, lane: int) -> LanePlan:
        """The only lane's blocks: one per shard."""
        return self._plan


def raw(count: int, seed: int, epoch: int, counter: Sequence[int]) -> NDArray[np.uint64]:
    """`count` 64-bit numbers from Philox with key (seed, epoch) and the three upper words of its counter."""
    generator = np.random.Philox(
        key=np.array([seed, epoch], dtype=np.uint64), counter=np.array([0, *counter], dtype=np.uint64)
    )
    numbers: NDArray[np.uint64] = generator.random_raw(count)
    return numbers


def permutation(count: int, seed: int, epoch: int, counter: Sequence[int]) -> NDArray[np.int64]:
    """A permutation of 0..count-1 drawn from `raw`."""
    return np.argsort(raw(count, seed, epoch, counter), kind="stable").astype(np.int64, copy=False)


def spans(firsts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """All of firsts[0], firsts[0]+1, … (counts[0] of them), then firsts[1], …, as one row."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    row: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(firsts - (ends - counts), counts)
    return row
