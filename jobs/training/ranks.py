"""The few collectives the loop needs, which do nothing in a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Number of this process, 0 to world_size - 1.
        world_size: How many there are.
        device: Where this rank computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank writes for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The consecutive part of `count` rows that falls to this rank; parts differ by at most one row."""
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, number: int) -> int:
        """A number of the first rank, on every rank."""
        return int(self.total(torch.tensor(number if self.is_first else 0, device=self.device)))

    def least(self, number: int) -> int:
        """The smallest of all ranks' numbers, on every rank."""
        least = torch.tensor(number, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """The rows of all ranks one after the other, where each holds its `share` of `count`."""
        if self.world_size == 1:
            return rows
        longest = -(-count // self.world_size)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = rows.new_empty(self.world_size, longest, *rows.shape[1:])
        dist.all_gather_into_tensor(gathered.flatten(0, 1), padded)
        lengths = [len(Ranks(rank, self.world_size, self.device).share(count)) for rank in range(self.world_size)]
        return torch.cat([part[:length] for part, length in zip(gathered, lengths, strict=True)])

    def average_batch_statistics(self, module: nn.Module) -> None:
        """Make the running statistics of every batch norm the mean over all ranks, hence over all groups."""
        statistics = [buffer for name, buffer in module.named_buffers() if "running_" in name]
        if self.world_size > 1 and statistics:
            flat = self.mean(torch.cat([buffer.flatten() for buffer in statistics]))
            for buffer, part in zip(statistics, torch.split(flat, [b.numel() for b in statistics]), strict=True):
                buffer.copy_(part.view_as(buffer))


@contextmanager
def ranks_from_environment(threads: int) -> Iterator[Ranks]:
    """One process, or one of several that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK).

    Args:
        threads: Compute threads of this process.
    """
    torch.set_num_threads(threads)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, world_size, device)
    finally:
        if world_size > 1:
            dist.destroy_process_group()


def pick_device(local_rank: int) -> torch.device:
    """The GPU of this rank on its host, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
