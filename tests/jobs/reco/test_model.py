"""One step of the method: the same on any number of ranks, MoCo v2 when switched off, queues that wrap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from jobs.reco.draws import group_mix, key_permutation
from jobs.reco.model import ReCo, ReCoConfig, StepViews
from jobs.reco.schedules import learning_rate
from tests.ranks import run_on_ranks

CONFIG = ReCoConfig(
    encoder="resnet10",
    stem="cifar",
    width=8,
    projection_dim=16,
    queue_size=40,  # no multiple of the batch: the second step wraps
    momentum=0.9,
    groups=4,
    seed=3,
)
BATCH = 16
STEPS = 3


def global_views(step: int) -> StepViews:
    generator = torch.Generator().manual_seed(step)
    # A brightness that grows with the row makes groups and ranks differ strongly in their statistics.
    offset = torch.linspace(-2, 2, BATCH).view(BATCH, 1, 1, 1)
    query, key, weak = (torch.randn(BATCH, 3, 16, 16, generator=generator) + offset for _ in range(3))
    return StepViews(query, key, weak)


def train(rank: int, world_size: int, config: ReCoConfig) -> dict[str, Any]:
    model = ReCo(config, rank=rank, world_size=world_size)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world_size > 1 else model
    optimizer = torch.optim.SGD(model.query_encoder.parameters(), lr=0.1, momentum=0.9)
    share = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    gradients: dict[str, Tensor] = {}
    losses = []
    for step in range(STEPS):
        views = global_views(step)
        weak = views.weak[share] if views.weak is not None else None
        output = wrapped(StepViews(views.query[share], views.key[share], weak), step=step)
        optimizer.zero_grad()
        output.loss.backward()
        model.enqueue(output)
        gradients = {name: p.grad.clone() for name, p in model.query_encoder.named_parameters()}
        optimizer.step()
        model.update_key_encoder()
        losses.append(output.terms["loss"])
    return {"gradients": gradients, "losses": torch.stack(losses), "state": model.state_dict()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    torch.manual_seed(0)
    return train(0, 1, CONFIG)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_compute_what_one_rank_with_all_groups_computes(alone: dict[str, Any], world_size: int) -> None:
    ranks = run_on_ranks(train, world_size, CONFIG)
    for rank in ranks:
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-3, atol=2e-5, msg=name)
        for name in ("strong_queue", "weak_queue", "queue_pointer"):
            torch.testing.assert_close(rank["state"][name], alone["state"][name], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        torch.stack([rank["losses"] for rank in ranks]).mean(0), alone["losses"], rtol=1e-5, atol=1e-5
    )
    for name, value in alone["state"].items():
        if "running" in name:  # each rank holds the mean over its own groups; their mean is that over all groups
            mean = torch.stack([rank["state"][name] for rank in ranks]).mean(0)
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5, msg=name)
    first, last = ranks[0]["state"], ranks[-1]["state"]
    assert not torch.equal(
        first["query_encoder.backbone.bn1.running_mean"], last["query_encoder.backbone.bn1.running_mean"]
    )


def keys_in_bfloat16(rank: int, world_size: int) -> tuple[Tensor, Tensor | None]:
    model = ReCo(CONFIG, rank=rank, world_size=world_size)
    share = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    views = global_views(0)
    assert views.weak is not None
    with torch.autocast("cpu", torch.bfloat16):
        output = model(StepViews(views.query[share], views.key[share], views.weak[share]), step=0)
    return output.keys, output.weak_keys


def test_exchanging_half_the_bytes_under_autocast_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    halved = [keys_in_bfloat16(0, 1), run_on_ranks(keys_in_bfloat16, 2)[0]]
    monkeypatch.setattr("jobs.reco.model._as_computed", lambda pictures: pictures)
    for keys, weak_keys in halved:
        exact, weak_exact = keys_in_bfloat16(0, 1)
        assert torch.equal(keys, exact)
        assert weak_keys is not None
        assert weak_exact is not None
        assert torch.equal(weak_keys, weak_exact)


def test_weights_of_zero_give_moco_v2_and_compute_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, global_weight=0.0, local_weight=0.0, groups=1)
    model = ReCo(config)
    passes = {"query": 0, "key": 0}
    model.query_encoder.register_forward_hook(lambda *_: passes.__setitem__("query", passes["query"] + 1))
    model.key_encoder.register_forward_hook(lambda *_: passes.__setitem__("key", passes["key"] + 1))
    views = global_views(0)
    output = model(StepViews(views.query, views.key, None), step=0)
    assert passes == {"query": 1, "key": 1}
    diagnostics = {"similarity_positive", "similarity_negative", "effective_negatives", "key_in_queue", "picture_std"}
    assert set(output.terms) == {"loss", "contrast"} | diagnostics
    assert model.weak_queue.numel() == 0

    # MoCo v2 by its own pseudo code: concatenated logits, label 0.
    reference = ReCo(config)
    order = key_permutation(seed=config.seed, step=0, size=BATCH)
    query = reference.query_encoder(views.query)
    with torch.no_grad():
        keys = torch.empty_like(query)
        keys[order] = reference.key_encoder(views.key[order])
    positive = (query * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ reference.strong_queue.T], dim=1) / config.temperature
    expected = F.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.int64))
    torch.testing.assert_close(output.loss, expected)


def test_both_terms_take_two_passes_of_each_encoder() -> None:
    model = ReCo(replace(CONFIG, groups=2))
    passes = {"query": 0, "key": 0}
    model.query_encoder.register_forward_hook(lambda *_: passes.__setitem__("query", passes["query"] + 1))
    model.key_encoder.register_forward_hook(lambda *_: passes.__setitem__("key", passes["key"] + 1))
    output = model(global_views(0), step=0)
    assert passes == {"query": 2, "key": 2}
    weighted = output.terms["contrast"] + output.terms["global_relation"] + output.terms["local_relation"]
    torch.testing.assert_close(output.terms["loss"], weighted)


def test_a_missing_weak_view_is_refused() -> None:
    views = global_views(0)
    with pytest.raises(ValueError, match="weak view"):
        ReCo(CONFIG)(StepViews(views.query, views.key, None), step=0)


def test_queues_start_with_unit_rows_and_wrap_in_order() -> None:
    model = ReCo(replace(CONFIG, queue_size=20))
    torch.testing.assert_close(model.strong_queue.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(model.weak_queue.norm(dim=1), torch.ones(20))
    first, second = model(global_views(0), step=0), model(global_views(1), step=1)
    model.enqueue(first)
    model.enqueue(second)  # rows 16..19, then 0..11
    assert model.queue_pointer.item() == 12
    assert torch.equal(model.strong_queue[16:20], second.keys[:4])
    assert torch.equal(model.strong_queue[:12], second.keys[4:])
    assert torch.equal(model.strong_queue[12:16], first.keys[12:])
    assert torch.equal(model.weak_queue[:12], second.weak_keys[4:])


def test_the_loss_is_computed_before_the_queue_holds_its_own_keys() -> None:
    model = ReCo(CONFIG)
    before = model.strong_queue.clone()
    output = model(global_views(0), step=0)
    assert torch.equal(model.strong_queue, before)
    expected = (model.query_encoder(global_views(0).query) @ before.T).mean()
    torch.testing.assert_close(output.terms["similarity_negative"], expected.detach(), rtol=0, atol=1e-5)


def test_queues_and_pointer_are_in_the_state_dict() -> None:
    model = ReCo(CONFIG)
    model.enqueue(model(global_views(0), step=0))
    other = ReCo(replace(CONFIG, seed=9))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.strong_queue, model.strong_queue)
    assert other.queue_pointer.item() == BATCH


def test_the_key_encoder_follows_in_parameters_only() -> None:
    model = ReCo(replace(CONFIG, groups=1, momentum=0.75))
    before = {name: p.detach().clone() for name, p in model.key_encoder.named_parameters()}
    statistics = model.key_encoder.backbone.bn1.running_mean.clone()
    with torch.no_grad():
        for parameter in model.query_encoder.parameters():
            parameter.add_(1.0)
        model.query_encoder.backbone.bn1.running_mean.add_(1.0)
    model.update_key_encoder()
    for name, parameter in model.key_encoder.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] + 0.25)
    assert torch.equal(model.key_encoder.backbone.bn1.running_mean, statistics)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.key_encoder.parameters())


def test_groups_that_the_ranks_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="4 groups"):
        ReCo(CONFIG, rank=0, world_size=3)


def test_draws_depend_on_seed_step_and_group_alone() -> None:
    draw = group_mix(seed=1, step=5, group=2, size=8, alpha=1.0)
    again = group_mix(seed=1, step=5, group=2, size=8, alpha=1.0)
    assert torch.equal(draw.permutation, again.permutation)
    assert (draw.mix, draw.centre) == (again.mix, again.centre)
    others = [
        group_mix(seed=2, step=5, group=2, size=8, alpha=1.0),
        group_mix(seed=1, step=6, group=2, size=8, alpha=1.0),
        group_mix(seed=1, step=5, group=3, size=8, alpha=1.0),
    ]
    assert len({draw.mix, *(other.mix for other in others)}) == 4
    assert sorted(key_permutation(seed=0, step=0, size=64).tolist()) == list(range(64))


def test_the_learning_rate_warms_up_then_follows_a_cosine() -> None:
    rates = [learning_rate(step, base=0.4, warmup_steps=4, total_steps=14) for step in range(14)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == pytest.approx(0.4)
    assert rates[9] == pytest.approx(0.2)
    assert 0 < rates[13] < 0.02
