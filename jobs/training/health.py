"""Is the encoder learning? Measures that need no labels, and a verdict in words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.reco import ReCo

_KEYS = 1024  # of a step are enough, and their pairs still few


def measure(model: ReCo, *, keys: Tensor, seen: int, positive: float, negative: float) -> dict[str, float]:
    """All measures of one step, after its update.

    Args:
        model: The method, with the gradients of the step.
        keys: The step's keys, shape (n, c), unit rows.
        seen: Pictures so far: the part of the queue that is filled.
        positive: Mean similarity of a query and its key.
        negative: Mean similarity of a query and the queue.
    """
    gradients = [weight.grad for weight in model.query_encoder.parameters() if weight.grad is not None]
    return {
        "health/alignment": alignment(positive),
        "health/uniformity": uniformity(keys[:_KEYS]),
        "health/feature_std": feature_std(keys[:_KEYS]),
        "health/positive_negative_gap": positive - negative,
        "health/rank_me": rank_me(model.strong_queue[:seen]),
        "health/gradient_norm": float(nn.utils.get_total_norm(gradients)),
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


def verdict(metrics: dict[str, float], *, data_wait: float) -> str:
    """The state of a run in words, from its latest measures.

    The thresholds are far from what healthy runs show: keys of a healthy run keep a standard deviation above 0.5.
    """
    if metrics["health/feature_std"] < 0.1:
        return f"collapsing: all features are nearly the same (std {metrics['health/feature_std']:.2f})"
    if metrics["health/rank_me"] < 2.0:
        return f"collapsing: features use {metrics['health/rank_me']:.1f} directions only"
    if data_wait > 0.2:
        return f"starved for data: {data_wait:.0%} of the time is spent waiting for pictures"
    return "healthy"
