"""When a run counts as diverged."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jobs.reco.losses import contrast
from jobs.training.divergence import is_worse_than_chance, weights_are_numbers, what_broke

METHOD = {"queue_size": 64, "temperature": 0.2}
HEALTHY = {"train/loss": 5.0, "train/contrast": 3.0, "train/local_relation": 2.0}


def test_a_run_that_learns_has_not_diverged() -> None:
    assert what_broke(HEALTHY, spoiled_weights=False, **METHOD) is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_terms(loss: float) -> None:
    metrics = HEALTHY | {"train/loss": loss, "train/local_relation": loss}
    assert what_broke(metrics, spoiled_weights=False, **METHOD) == f"the loss became {loss} (local_relation)"


def test_spoiled_weights_count_though_the_loss_is_still_a_number() -> None:
    assert "weights" in (what_broke(HEALTHY, spoiled_weights=True, **METHOD) or "")


def test_a_loss_that_is_worse_than_chance_has_exploded() -> None:
    metrics = HEALTHY | {"train/contrast": 9.0}
    assert what_broke(metrics, spoiled_weights=False, **METHOD) == (
        "the contrast loss exploded to 9.0, where chance is 4.2"
    )


def test_features_that_are_all_alike_or_random_are_not_worse_than_chance() -> None:
    torch.manual_seed(0)
    random = F.normalize(torch.randn(64, 16), dim=1)
    for query, key, queue in ((random[:8], random[8:16], random), (random[:1].expand(8, -1),) * 2 + (random[:1],)):
        loss = contrast(query, key, queue, 0.2).loss
        assert not is_worse_than_chance(float(loss), queue_size=len(queue), temperature=0.2)
    opposite = contrast(random[:8], -random[:8], random[:8], 0.2).loss
    assert is_worse_than_chance(float(opposite), queue_size=8, temperature=0.2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_weight_that_is_no_number_is_enough(value: float) -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert weights_are_numbers(layers.parameters())
    with torch.no_grad():
        layers[1].weight[2, 3] = value
    assert not weights_are_numbers(layers.parameters())
