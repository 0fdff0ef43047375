"""Linear classifiers on features: a whole grid of learning rates and weight decays, trained at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Candidate:
    """One classifier of a grid.

    Attributes:
        lr: Learning rate of SGD.
        weight_decay: L2 penalty on the weights.
    """

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class LinearProtocol:
    """How a grid of linear classifiers is trained.

    Attributes:
        learning_rates: Those of the grid.
        weight_decays: Those of the grid.
        epochs: Passes over the features.
        batch: Rows of a step.
        steps_down: Epochs after which the learning rate is a tenth of what it was; a cosine to 0 where there are none.
    """

    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    weight_decays: tuple[float, ...] = (0.0, 1e-5, 1e-4, 1e-3)
    epochs: int = 30
    batch: int = 256
    steps_down: tuple[int, ...] = ()


SGD_PROTOCOL = LinearProtocol((30.0,), (0.0,), epochs=100, steps_down=(60, 80))
"""MoCo's and ReCo's: SGD with a learning rate of 30 and no weight decay for 100 epochs, a tenth of it after 60 and 80.

Here on cached features of one centre view; theirs saw an augmented crop of each picture in each epoch.
"""


def grid(protocol: LinearProtocol) -> list[Candidate]:
    """Every pair of the protocol's learning rates and weight decays."""
    return [Candidate(lr, decay) for lr, decay in product(protocol.learning_rates, protocol.weight_decays)]


def standardised(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Features with mean 0 and standard deviation 1 over `train` in each dimension, float32; the others alike."""
    train = train.float()
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return [(each.float() - mean) / std for each in (train, *others)]


def fit_linear(
    train: Tensor, labels: Tensor, candidates: Sequence[Candidate], protocol: LinearProtocol, *, classes: int
) -> tuple[Tensor, Tensor]:
    """Train one linear classifier for each candidate, all in the same steps: SGD with momentum 0.9, cross entropy.

    Args:
        train: Shape (n, c).
        labels: Shape (n,), int64.
        candidates: g of them.
        protocol: How.
        classes: How many there are.

    Returns:
        Weights (g, c, classes) and biases (g, classes), for logits `features @ weights[i] + biases[i]`.
    """
    device, many = train.device, len(candidates)
    # Classifiers side by side make one matrix product of each pass, rather than one for each of them.
    weights = torch.zeros(train.shape[1], many, classes, device=device)
    biases = torch.zeros(many, classes, device=device)
    moments = [torch.zeros_like(weights), torch.zeros_like(biases)]
    lr = torch.tensor([each.lr for each in candidates], device=device).view(-1, 1)
    decay = torch.tensor([each.weight_decay for each in candidates], device=device).view(-1, 1)
    generator = torch.Generator().manual_seed(0)
    steps = protocol.epochs * math.ceil(len(train) / protocol.batch)
    step = 0
    for epoch in range(protocol.epochs):
        for rows in torch.randperm(len(train), generator=generator).to(device).split(protocol.batch):  # type: ignore[no-untyped-call]
            features, wanted = train[rows], F.one_hot(labels[rows], classes).float()
            logits = (features @ weights.flatten(1)).view(len(rows), many, classes) + biases
            # The gradient of softmax and cross entropy: (probability - wanted) / n.
            error = (torch.softmax(logits, dim=2) - wanted[:, None]) / len(rows)
            gradients = [(features.T @ error.flatten(1)).view_as(weights) + decay * weights, error.sum(dim=0)]
            rate = lr * _schedule(protocol, epoch, step / steps)
            for value, moment, gradient in zip((weights, biases), moments, gradients, strict=True):
                moment.mul_(0.9).add_(gradient)
                value.sub_(rate * moment)
            step += 1
    return weights.transpose(0, 1), biases


def logistic_predictions(
    train: Tensor, labels: Tensor, test: Tensor, *, classes: int, weight_decay: float = 1e-4
) -> Tensor:
    """Classes by a linear classifier that is fitted to convergence by L-BFGS.

    Args:
        train: Shape (n, c), standardised.
        labels: Shape (n,), int64.
        test: Shape (m, c), standardised alike.
        classes: How many there are.
        weight_decay: Coefficient of half the squared weights.

    Returns:
        int64 (m,).
    """
    classifier = nn.Linear(train.shape[1], classes, device=train.device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(train), labels)
        loss = loss + 0.5 * weight_decay * classifier.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted: Tensor = classifier(test).argmax(dim=1)
    return predicted


def _schedule(protocol: LinearProtocol, epoch: int, progress: float) -> float:
    if protocol.steps_down:
        return float(0.1 ** sum(epoch >= down for down in protocol.steps_down))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
