"""The key shuffle: keys meet the batch norms in another order and on other ranks than queries (He et al., 2020)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class KeyShuffle:
    """Deals the global batch of keys out by a permutation, and brings their features back in order.

    Row j of the permuted batch is row permutation[j] of the global batch; rank r works on the r-th equal part of it.
    All-to-all gives each rank only the pictures it needs (B, where an all-gather would bring it W·B).

    Args:
        permutation: Shape (global batch,), int64, the same on all ranks.
        rank: This rank.
        world_size: Number of ranks; divides the global batch.

    Raises:
        ValueError: If the batch cannot be divided.
    """

    def __init__(self, permutation: Tensor, *, rank: int, world_size: int) -> None:
        if len(permutation) % world_size:
            raise ValueError(f"a global batch of {len(permutation)} cannot be divided over {world_size} ranks")
        self.permutation = permutation
        self.rank = rank
        self.world_size = world_size
        self._per_rank = len(permutation) // world_size

    def deal(self, pictures: Tensor) -> Tensor:
        """Exchange this rank's rows for the rows of its part of the permuted batch.

        Args:
            pictures: Shape (n, ...), this rank's share of the global batch in order; n = global batch / world size.
        """
        share = self.permutation.view(self.world_size, self._per_rank)
        if self.world_size == 1:
            return pictures[self.permutation.to(pictures.device)]
        home = share // self._per_rank  # [i, j]: the rank that holds the j-th picture that rank i needs
        mine = home == self.rank
        sent = torch.cat([row[keep] for row, keep in zip(share, mine, strict=True)]) - self.rank * self._per_rank
        counts_sent = mine.sum(dim=1).tolist()
        counts_received = torch.bincount(home[self.rank], minlength=self.world_size).tolist()
        # Contiguous rows are what the collective sends; channels-last pictures are given back their layout after it.
        outgoing = pictures[sent.to(pictures.device)].contiguous()
        incoming = torch.empty_like(outgoing, memory_format=torch.contiguous_format).resize_(
            self._per_rank, *pictures.shape[1:]
        )
        dist.all_to_all_single(incoming, outgoing, counts_received, counts_sent)
        arrived = torch.argsort(home[self.rank], stable=True)  # rows come sorted by the rank that sent them
        dealt = torch.empty_like(incoming)
        dealt[arrived.to(pictures.device)] = incoming
        return dealt

    def collect(self, features: Tensor) -> Tensor:
        """All features of the global batch in its own order, on every rank: one all-gather.

        Args:
            features: Shape (n, c), of the pictures that `deal` gave.

        Returns:
            Shape (global batch, c).
        """
        if self.world_size == 1:
            gathered = features
        else:
            gathered = features.new_empty(len(self.permutation), *features.shape[1:])
            dist.all_gather_into_tensor(gathered, features.contiguous())
        restored = torch.empty_like(gathered)
        restored[self.permutation.to(features.device)] = gathered
        return restored
