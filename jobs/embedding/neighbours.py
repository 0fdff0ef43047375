"""Nearest neighbours by cosine, exactly, over embeddings that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from jobs.embedding.encoder import Floats


def nearest(blocks: Iterable[tuple[int, Floats]], queries: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """Find the k nearest vectors of each query, nearest first; of equally near ones the earlier comes first.

    Args:
        blocks: Number of the first row, and float32 [n, c], of each block.
        queries: float32 [q, c].
        k: How many; fewer where there are fewer.

    Returns:
        Rows, int64 [q, k], and cosine similarities, float32 [q, k].
    """
    unit_queries = unit(queries)
    rows = np.empty((len(queries), 0), np.int64)
    similarities = np.empty((len(queries), 0), np.float32)
    for start, block in blocks:
        similarity = unit_queries @ unit(block).T
        here = np.broadcast_to(np.arange(start, start + len(block)), similarity.shape)
        rows, similarities = np.hstack([rows, here]), np.hstack([similarities, similarity])
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        rows, similarities = np.take_along_axis(rows, best, 1), np.take_along_axis(similarities, best, 1)
    return rows, similarities


def unit(features: Floats) -> Floats:
    """Vectors of length 1, float32 [n, c]; one of zeros stays what it is."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / lengths.clip(1e-12), np.float32)
