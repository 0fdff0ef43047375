"""Classifiers on features against slow references."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.probes import (
    SGD_PROTOCOL,
    Candidate,
    LinearProtocol,
    accuracy,
    confusion,
    few_shot_rows,
    fit_linear,
    grid,
    knn_predictions,
    standardised,
)


def blobs(count: int, seed: int, *, classes: int = 4, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    centres = torch.randn(classes, 12, generator=torch.Generator().manual_seed(99)) * 1.5
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, 12, generator=generator), labels


def test_knn_for_several_k_in_one_pass_equals_a_vote_for_each() -> None:
    train, labels = blobs(90, 0, noise=3.0)
    test, _ = blobs(300, 1, noise=3.0)
    ks = [200, 1, 7, 7, 20]
    found = knn_predictions(train, labels, test, ks=ks, classes=4)
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    for row, k in enumerate(ks):
        for number in range(0, 300, 17):
            nearest = similarity[number].argsort(descending=True)[:k]
            votes = [sum(math.exp(similarity[number, i] / 0.1) for i in nearest if labels[i] == c) for c in range(4)]
            assert int(found[row, number]) == max(range(4), key=votes.__getitem__)
    assert (found[2] == found[3]).all()


def test_a_grid_trained_at_once_equals_each_classifier_trained_alone() -> None:
    train, labels = blobs(64, 0)
    protocol = LinearProtocol(epochs=3, batch=16)
    candidates = [Candidate(0.1, 0.0), Candidate(0.5, 1e-2), Candidate(0.01, 1e-3)]
    weights, biases = fit_linear(train, labels, candidates, protocol, classes=4)
    for number, candidate in enumerate(candidates):
        alone = nn.Linear(12, 4)
        nn.init.zeros_(alone.weight)
        nn.init.zeros_(alone.bias)
        decayed = [{"params": [alone.weight], "weight_decay": candidate.weight_decay}, {"params": [alone.bias]}]
        optimizer = torch.optim.SGD(decayed, lr=candidate.lr, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        for step in range(12):
            if step % 4 == 0:
                order = torch.randperm(64, generator=generator)
            rows = order[step % 4 * 16 : step % 4 * 16 + 16]
            for group in optimizer.param_groups:
                group["lr"] = candidate.lr * 0.5 * (1 + math.cos(math.pi * step / 12))
            optimizer.zero_grad()
            F.cross_entropy(alone(train[rows]), labels[rows]).backward()
            optimizer.step()
        torch.testing.assert_close(weights[number].T, alone.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(biases[number], alone.bias.detach(), atol=1e-5, rtol=1e-4)


def test_the_authors_protocol_steps_down_and_learns() -> None:
    train, labels = blobs(128, 0, noise=0.3)
    test, test_labels = blobs(64, 1, noise=0.3)
    fitted, judged = standardised(train, test)
    weights, biases = fit_linear(fitted, labels, grid(SGD_PROTOCOL), SGD_PROTOCOL, classes=4)
    assert len(weights) == 1
    assert accuracy((judged @ weights[0] + biases[0]).argmax(dim=1), test_labels) > 95


def test_confusion_counts_what_is_taken_for_what() -> None:
    labels, predicted = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 0, 2])
    assert confusion(predicted, labels, classes=3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert accuracy(predicted, labels) == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize(("fraction", "each"), [(0.1, 2), (0.01, 1), (0.5, 10)])
def test_few_labels_are_so_many_of_each_class(fraction: float, each: int) -> None:
    labels = torch.arange(80) % 4
    rows = few_shot_rows(labels, fraction, seed=0)
    assert labels[rows].bincount().tolist() == [each] * 4
    assert len(rows.unique()) == len(rows)
    assert (few_shot_rows(labels, fraction, seed=1) != rows).any()
