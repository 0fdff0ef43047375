"""What the step is compared with computes the same: the plain step's losses are ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.plain_reco import PlainReCo
from jobs.reco import ReCo, ReCoConfig, StepViews

CONFIG = ReCoConfig(
    encoder="resnet10",
    stem="cifar",
    width=8,
    projection_dim=16,
    queue_size=32,  # full after two steps: the third overwrites what the first wrote
    momentum=0.9,
    groups=1,
    seed=3,
)
BATCH, STEPS = 16, 4


def paired(config: ReCoConfig) -> tuple[ReCo, PlainReCo]:
    ours, plain = ReCo(config), PlainReCo(config)
    plain.query_encoder.load_state_dict(ours.query_encoder.state_dict())
    plain.key_encoder.load_state_dict(ours.key_encoder.state_dict())
    plain.strong_queue.copy_(ours.strong_queue.T)
    if config.global_weight > 0:
        plain.weak_queue.copy_(ours.weak_queue.T)
    return ours, plain


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, mix="mixup"), replace(CONFIG, global_weight=0.0, local_weight=0.0)],
    ids=["cutmix", "mixup", "moco"],
)
def test_the_plain_step_has_our_loss(config: ReCoConfig) -> None:
    ours, plain = paired(config)
    optimizers = [
        torch.optim.SGD(model.query_encoder.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, fused=fused)
        for model, fused in ((ours, True), (plain, False))
    ]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        query, key, weak = (torch.randn(BATCH, 3, 16, 16, generator=generator) for _ in range(3))
        views = StepViews(query, key, weak if config.global_weight > 0 else None)
        output = ours(views, step=step)
        loss = plain(views, step=step)
        assert loss.item() == pytest.approx(output.loss.item(), abs=1e-5)
        for optimizer, term in zip(optimizers, (output.loss, loss), strict=True):
            optimizer.zero_grad()
            term.backward()
        ours.enqueue(output)
        for optimizer in optimizers:
            optimizer.step()
        ours.update_key_encoder()
    torch.testing.assert_close(plain.strong_queue.T, ours.strong_queue, rtol=0, atol=1e-5)
