"""Is the encoder learning? Measures that need no labels, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from jobs.training.learner import Learner

_KEYS = 1024  # of a step are enough, and their pairs still few
_TINY = 1e-12
ONLY_SEEN = ("similarity_positive", "similarity_negative", "effective_negatives", "key_in_queue", "picture_std")
"""Terms of a step that are there for the measures alone."""

# Where a measure stops being that of a run that learns: docs/health.md shows runs on both sides of each.
SAME_PICTURES = 0.05
NO_EMA = 0.3
LARGE_UPDATE = 0.01
KEY_IN_QUEUE = 0.999998
WORSE_THAN_CHANCE = 0.5
COLLAPSED_STD = 0.1
COLLAPSED_RANK = 2.0
STARVED = 0.2


def measure(learner: Learner, *, keys: Tensor, step: int, batch: int, seen: Mapping[str, float]) -> dict[str, float]:
    """All measures of one step, after its update.

    Args:
        learner: With the gradients of the step.
        keys: The step's keys, shape (n, c), unit rows.
        step: Steps completed.
        batch: Global batch size.
        seen: Mean over the steps since the last measures of `contrast`, and of what `ONLY_SEEN` names.
    """
    model = learner.model
    weights: list[Tensor] = list(model.query_encoder.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    update = _norm(_directions(learner.optimizer)) * float(learner.optimizer.param_groups[0]["lr"])
    key_weights: list[Tensor] = list(model.key_encoder.parameters())
    apart = torch._foreach_sub(weights, key_weights)
    filled = min(step * batch, model.config.queue_size)
    return {
        "health/alignment": alignment(seen["similarity_positive"]),
        "health/uniformity": uniformity(keys[:_KEYS]),
        "health/feature_std": feature_std(keys[:_KEYS]),
        "health/positive_negative_gap": seen["similarity_positive"] - seen["similarity_negative"],
        "health/rank_me": rank_me(model.strong_queue[:filled]),
        "health/gradient_norm": _norm(gradients),
        "health/update_ratio": update / max(_norm(weights), _TINY),
        "health/ema_lag": _norm(apart) / max(update, _TINY),
        "health/queue_age": filled / batch,
        "health/effective_negatives": seen["effective_negatives"],
        "health/loss_over_chance": seen["contrast"] - math.log1p(model.config.queue_size),
        "health/key_in_queue": seen["key_in_queue"],
        "health/picture_std": seen["picture_std"],
    }


def rank_me(features: Tensor) -> float:
    """Effective rank: the exponential of the entropy of the singular values (RankMe, Garrido et al., 2023).

    Args:
        features: Shape (n, c); 1 means that all rows lie on a line, min(n, c) that all directions are used alike.
    """
    features = features.double()
    gram = features.T @ features if features.shape[1] <= features.shape[0] else features @ features.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-12) + 1e-12
    return float(torch.exp(-(share * share.log()).sum()))


def alignment(similarity_positive: float) -> float:
    """Mean squared distance of a query and its key, both unit (Wang and Isola, 2020, equation 2): 2 − 2·cosine."""
    return 2.0 - 2.0 * similarity_positive


def uniformity(features: Tensor) -> float:
    """Log of the mean Gaussian potential of pairs of unit rows (Wang and Isola, 2020, section 4.1.2; t = 2).

    Args:
        features: Shape (n, c); 0 means that all rows are the same, −4 is the limit for rows spread over the sphere.
    """
    return float(torch.pdist(features.float()).square().mul(-2).exp().mean().clamp_min(1e-12).log())


def feature_std(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation, times √c: 1 where unit rows are spread evenly, 0 in collapse."""
    return float(features.float().std(dim=0).mean() * features.shape[1] ** 0.5)


def verdict(metrics: Mapping[str, float]) -> str:
    """The state of a run in words, from the measures of a logging step: `healthy`, or a name and what it rests on.

    Causes come before what follows from them. docs/health.md shows what the thresholds were taken from.

    Args:
        metrics: Those of `measure`, and `time/data_wait`.
    """
    if (spread := metrics["health/picture_std"]) < SAME_PICTURES:
        return f"pictures alike: they differ by {spread:.3f} of their usual spread; are they empty?"
    if (lag := metrics["health/ema_lag"]) < NO_EMA:
        return f"no EMA: the key encoder is {lag:.1f} steps behind the query encoder; raise method.momentum"
    if (over := metrics["health/loss_over_chance"]) > WORSE_THAN_CHANCE:
        negatives = metrics["health/effective_negatives"]
        return (
            f"temperature too low: the loss is {over:.1f} above chance, {negatives:.0f} negatives outweigh the others; "
            "raise method.temperature"
        )
    if (ratio := metrics["health/update_ratio"]) > LARGE_UPDATE:
        return f"learning rate too high: a step changes the weights by {ratio:.1%}; lower optimizer.lr"
    if (std := metrics["health/feature_std"]) < COLLAPSED_STD:
        return f"collapsing: all features are nearly the same (std {std:.2f})"
    if (rank := metrics["health/rank_me"]) < COLLAPSED_RANK:
        return f"collapsing: features use {rank:.1f} directions only"
    if (found := metrics["health/key_in_queue"]) > KEY_IN_QUEUE:
        return f"leak: the keys of a step are among their own negatives (cosine {found:.6f})"
    if (wait := metrics["time/data_wait"]) > STARVED:
        return f"starved for data: {wait:.0%} of the time is spent waiting for pictures"
    return "healthy"


def _directions(optimizer: torch.optim.SGD) -> list[Tensor]:
    """What the last update was along, before it was scaled by the learning rate."""
    every = [weight for group in optimizer.param_groups for weight in group["params"]]
    kept = [optimizer.state[weight].get("momentum_buffer") for weight in every if weight.grad is not None]
    return [each for each in kept if each is not None] or [weight.grad for weight in every if weight.grad is not None]


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(nn.utils.get_total_norm(tensors)) if tensors else 0.0
