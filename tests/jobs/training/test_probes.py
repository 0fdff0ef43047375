"""Probes and health against slow references and cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.training import probes
from jobs.training.ranks import Ranks
from tests.ranks import run_on_ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def features(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def slow_knn(train: Tensor, labels: list[int], test: Tensor, k: int, temperature: float) -> list[int]:
    guesses = []
    for row in test:
        cosines = [float(F.cosine_similarity(row, other, dim=0)) for other in train]
        nearest = sorted(range(len(train)), key=lambda i: -cosines[i])[:k]
        votes: dict[int, float] = {}
        for index in nearest:
            votes[labels[index]] = votes.get(labels[index], 0.0) + math.exp(cosines[index] / temperature)
        guesses.append(max(votes, key=lambda label: votes[label]))
    return guesses


def test_k_nn_equals_the_obvious_loop() -> None:
    train, test = features(60, 5, 0), features(31, 5, 1)
    labels = [i % 3 for i in range(60)]
    truth = torch.tensor([i % 3 for i in range(31)])
    guesses = slow_knn(train, labels, test, k=7, temperature=0.1)
    expected = 100 * np.mean([guess == int(true) for guess, true in zip(guesses, truth, strict=True)])
    accuracy = probes.k_nearest_accuracy(train, torch.tensor(labels), test, truth, k=7, ranks=ALONE)
    assert accuracy == pytest.approx(expected)


def test_k_nn_takes_no_more_neighbours_than_there_are() -> None:
    train = torch.eye(3)
    assert probes.k_nearest_accuracy(train, torch.arange(3), train, torch.arange(3), k=200, ranks=ALONE) == 100


def test_the_linear_probe_separates_what_is_linearly_separable() -> None:
    labels = torch.arange(200) % 4
    train = F.one_hot(labels, 4).float() + 0.1 * features(200, 4, 0)
    assert probes.linear_accuracy(train, labels, train, labels) == 100
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert probes.linear_accuracy(train, labels, train, shuffled) < 50


@pytest.mark.parametrize(("count", "classes", "k"), [(50_000, 10, 200), (1400, 10, 28), (20, 10, 1)])
def test_k_follows_the_class_size(count: int, classes: int, k: int) -> None:
    assert probes.default_k(np.arange(count) % classes) == k


def rank_work(rank: int, world_size: int) -> dict[str, object]:
    ranks = Ranks(rank, world_size, torch.device("cpu"))
    rows = features(11, 3, 0)  # no multiple of the ranks
    mine = ranks.share(11)
    norm = torch.nn.BatchNorm2d(2)
    norm.running_mean.fill_(float(rank))
    ranks.average_batch_statistics(norm)
    labels = torch.arange(40) % 2
    return {
        "gathered": ranks.gather_rows(rows[mine.start : mine.stop], 11),
        "running_mean": norm.running_mean,
        "knn": probes.k_nearest_accuracy(features(40, 4, 1), labels, features(33, 4, 2), labels[:33], k=3, ranks=ranks),
    }


def test_ranks_share_the_work_and_agree() -> None:
    labels = torch.arange(40) % 2
    alone = probes.k_nearest_accuracy(features(40, 4, 1), labels, features(33, 4, 2), labels[:33], k=3, ranks=ALONE)
    for result in run_on_ranks(rank_work, 3):
        assert torch.equal(result["gathered"], features(11, 3, 0))
        assert result["running_mean"].tolist() == [1.0, 1.0]
        assert result["knn"] == pytest.approx(alone)
