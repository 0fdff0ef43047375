"""Nearest neighbours block by block against all similarities at once."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.embedding.neighbours import nearest


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_of_any_size_give_what_one_sort_gives(size: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 5)).astype(np.float32)
    queries = rng.normal(size=(3, 5)).astype(np.float32)
    rows, similarities = nearest(((s, features[s : s + size]) for s in range(0, 100, size)), queries, 6)
    cosine = (queries @ features.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(features, axis=1)
    assert rows.tolist() == np.argsort(-cosine, axis=1)[:, :6].tolist()
    np.testing.assert_allclose(similarities, -np.sort(-cosine, axis=1)[:, :6], atol=1e-6)


def test_of_equals_the_earlier_comes_first_and_there_are_no_more_than_there_are() -> None:
    features = np.array([[0, 1], [1, 0], [2, 0], [0, 0]], np.float32)
    rows, similarities = nearest([(0, features[:2]), (2, features[2:])], np.array([[3, 0]], np.float32), 9)
    assert rows.tolist() == [[1, 2, 0, 3]]
    assert similarities.tolist() == [[1, 1, 0, 0]]
