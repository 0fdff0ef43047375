"""Measures of health against their definitions, and the verdict on runs that go wrong on purpose."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from jobs.reco import diagnostics
from jobs.training import health
from tests.provoked import FAILURES, HEALTHY, provoke

SEEDS = (3, 4, 5)
"""Others than those that the thresholds were taken from (docs/health.md)."""

QUIET = {"time/data_wait": 0.0}
"""How long this machine waits for its disk says nothing of the method."""

GOOD = {
    "health/picture_std": 1.2,
    "health/ema_lag": 30.0,
    "health/loss_over_chance": -1.0,
    "health/effective_negatives": 200.0,
    "health/update_ratio": 0.002,
    "health/feature_std": 0.9,
    "health/rank_me": 30.0,
    "health/key_in_queue": 0.9,
    "time/data_wait": 0.01,
}


def test_rank_me_counts_directions_that_are_used_alike() -> None:
    assert health.rank_me(torch.eye(8).repeat(5, 1)) == pytest.approx(8, rel=1e-3)
    assert health.rank_me(torch.ones(40, 8)) == pytest.approx(1, rel=1e-3)
    assert health.rank_me(torch.cat([torch.eye(8)[:2]] * 10)) == pytest.approx(2, rel=1e-3)


def test_alignment_and_uniformity_by_their_definitions() -> None:
    rows = F.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [torch.exp(-2 * (rows[i] - rows[j]).square().sum()) for i in range(20) for j in range(i)]
    assert health.uniformity(rows) == pytest.approx(math.log(float(torch.stack(pairs).mean())), abs=1e-5)
    assert health.uniformity(rows[:1].expand(20, 6)) == pytest.approx(0, abs=1e-6)
    other = F.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    distance = (rows - other).square().sum(1).mean()
    cosine = float((rows * other).sum(1).mean())
    assert health.alignment(cosine) == pytest.approx(float(distance), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "healthy"),
        ({"health/picture_std": 0.001}, "pictures alike: they differ by 0.001"),
        ({"health/ema_lag": 0.0}, "no EMA: the key encoder is 0.0 steps behind"),
        ({"health/loss_over_chance": 2.5, "health/effective_negatives": 3.0}, "temperature too low: the loss is 2.5"),
        ({"health/update_ratio": 0.04}, "learning rate too high: a step changes the weights by 4.0%"),
        ({"health/feature_std": 0.02}, "collapsing: all features"),
        ({"health/rank_me": 1.2}, "collapsing: features use 1.2 directions"),
        ({"health/key_in_queue": 1.0}, "leak: the keys of a step are among their own negatives"),
        ({"time/data_wait": 0.6}, "starved for data: 60%"),
        ({"health/feature_std": 0.02, "health/update_ratio": 0.04}, "learning rate too high"),
        ({"health/feature_std": 0.02, "health/key_in_queue": 1.0}, "collapsing"),
    ],
)
def test_the_verdict_names_what_is_wrong_and_causes_first(changes: dict[str, float], words: str) -> None:
    assert health.verdict(GOOD | changes).startswith(words)


def test_effective_negatives_are_a_perplexity() -> None:
    queue = torch.eye(6)
    alike = torch.full((3, 6), 6**-0.5)
    assert float(diagnostics.effective_negatives(alike, queue, 0.1)) == pytest.approx(6, rel=1e-4)
    assert float(diagnostics.effective_negatives(queue[:1], queue, 0.01)) == pytest.approx(1, rel=1e-4)


def test_keys_in_the_queue_are_seen_only_where_all_are_there() -> None:
    rows = F.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(diagnostics.key_in_queue(rows[:8], rows)) > health.KEY_IN_QUEUE
    assert float(diagnostics.key_in_queue(rows[:8], rows[1:])) < 0.95


def test_spread_of_pictures_is_that_between_pictures() -> None:
    one = torch.randn(1, 3, 16, 16)
    assert float(diagnostics.picture_std(one.expand(8, -1, -1, -1))) == pytest.approx(0, abs=1e-6)
    assert float(diagnostics.picture_std(torch.randn(64, 3, 16, 16))) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FAILURES)
def test_a_provoked_failure_is_named_within_200_steps(name: str, seed: int, tmp_path: Path) -> None:
    verdicts = [health.verdict(record["metrics"] | QUIET) for record in provoke(FAILURES[name], seed, tmp_path)]
    assert name in {verdict.split(":")[0] for verdict in verdicts}, verdicts


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_gets_no_verdict_but_healthy(name: str, seed: int, tmp_path: Path) -> None:
    records = provoke(HEALTHY[name], seed, tmp_path)
    assert len(records) == 20
    assert {health.verdict(record["metrics"] | QUIET) for record in records} == {"healthy"}
