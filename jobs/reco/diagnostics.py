"""What a step shows of itself besides its loss: small looks at its views, its keys and the queue as the loss saw it."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 8
"""Rows that are looked at: the whole of n x k similarities is the loss's business, and costs accordingly."""
_PICTURES = 64
_STRIDE = 4


@torch.no_grad()
def diagnose(pictures: Tensor, query: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> dict[str, Tensor]:
    """The diagnostics of a step as float32 scalars, by name.

    Args:
        pictures: Normalised query views, shape (n, 3, h, w).
        query: Their features, shape (n, c), unit rows.
        keys: The step's keys, shape (m, c), unit rows.
        queue: The negatives of this step, shape (k, c), unit rows.
        temperature: T of the contrastive terms.

    Returns:
        What the functions below say, each under its name, of the first pictures, queries and keys.
    """
    with torch.autocast(query.device.type, enabled=False):
        return {
            "picture_std": picture_std(pictures),
            "effective_negatives": effective_negatives(query[:ROWS].float(), queue.float(), temperature),
            "key_in_queue": key_in_queue(keys[:ROWS].float(), queue.float()),
        }


def picture_std(pictures: Tensor) -> Tensor:
    """Mean over pixels of the standard deviation between pictures; 0 where all pictures are the same.

    Args:
        pictures: Shape (n, 3, h, w); about 1 for natural pictures that are normalised.
    """
    seen = pictures[:_PICTURES, :, ::_STRIDE, ::_STRIDE].float()
    return seen.std(dim=0, correction=0).mean()


def effective_negatives(query: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """How many negatives push a query away: the perplexity of the softmax over its similarities to them.

    Args:
        query: Shape (n, c), unit rows.
        queue: Shape (k, c), unit rows. The result is k where all push alike, 1 where one alone does.
        temperature: Divides every similarity.
    """
    log_share = torch.log_softmax(query @ queue.T / temperature, dim=1)
    return torch.exp(-(log_share.exp() * log_share).sum(dim=1)).mean()


def key_in_queue(keys: Tensor, queue: Tensor) -> Tensor:
    """Smallest over the keys of the largest cosine to the queue: 1 where every key is among the negatives already.

    Args:
        keys: Shape (n, c), unit rows.
        queue: Shape (k, c), unit rows.
    """
    nearest = queue[(keys @ queue.T).argmax(dim=1)]  # found by TF32 where that is on, but not measured by it
    return (keys * nearest).sum(dim=1).amin()
