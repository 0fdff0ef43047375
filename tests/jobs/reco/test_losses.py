"""The losses against the authors' numbers, a slow reference, and cases with a closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.reco.interpolation import Box, cutmix, cutmix_box, interpolation_target, mixup
from jobs.reco.losses import alignment, contrast, distribution_alignment, info_nce
from jobs.reco.model import ReCo, ReCoConfig, StepOutput

REFERENCE = np.load(Path(__file__).with_name("reco_losses.npz"))


def reference(case: int) -> dict[str, Tensor]:
    return {name.split("/")[1]: torch.from_numpy(REFERENCE[name]) for name in REFERENCE if name.startswith(f"{case}/")}


@pytest.mark.parametrize("case", [0, 1])
def test_losses_targets_and_gradients_match_the_authors(case: int) -> None:
    r = reference(case)
    temperature, student_t, teacher_t, global_weight, local_weight, ratio = r["hyper"].tolist()
    query, query_mix = r["q"].clone().requires_grad_(), r["q_mix"].clone().requires_grad_()

    target = interpolation_target(query, r["k"], r["perm"], ratio)
    loss_contrast = info_nce(query, r["k"], r["queue"], temperature)
    loss_global = distribution_alignment(query, r["k_weak"], r["queue_weak"], student_t, teacher_t)
    loss_local = info_nce(query_mix, target, r["queue"], temperature)
    loss = loss_contrast + global_weight * loss_global + local_weight * loss_local
    loss.backward()

    for name, value in {
        "target_mix": target,
        "loss_contrast": loss_contrast,
        "loss_global": loss_global,
        "loss_local": loss_local,
        "loss": loss,
        "grad_q": query.grad,
        "grad_q_mix": query_mix.grad,
    }.items():
        torch.testing.assert_close(value.detach(), r[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [0, 1])
def test_queues_after_enqueueing_match_the_authors(case: int) -> None:
    r = reference(case)
    rows, features = r["queue"].shape
    model = ReCo(
        ReCoConfig(encoder="resnet10", stem="cifar", width=8, projection_dim=features, queue_size=rows, groups=1)
    )
    model.strong_queue.copy_(r["queue"])
    model.weak_queue.copy_(r["queue_weak"])
    model.enqueue(StepOutput(torch.zeros(()), {}, r["k"], r["k_weak"]))
    assert torch.equal(model.strong_queue, r["queue_after"])
    assert torch.equal(model.weak_queue, r["queue_weak_after"])
    assert model.queue_pointer.item() == len(r["k"])


@pytest.mark.parametrize("case", [0, 1])
def test_cutmix_pastes_the_authors_box(case: int) -> None:
    r = reference(case)
    changed = (r["im_mix"] != r["im_q"]).any(dim=1).any(dim=0)
    rows, columns = torch.nonzero(changed.any(1)).flatten(), torch.nonzero(changed.any(0)).flatten()
    box = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    mixed, ratio = cutmix(r["im_q"], r["im_k"], r["perm"], box)
    assert torch.equal(mixed, r["im_mix"])
    assert ratio == pytest.approx(r["hyper"][5].item(), abs=1e-6)


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_info_nce_equals_the_obvious_loop() -> None:
    query, key, queue = unit(5, 7, seed=0), unit(5, 7, seed=1), unit(11, 7, seed=2)
    losses = []
    for i in range(5):
        positive = math.exp(float(query[i] @ key[i]) / 0.2)
        negatives = sum(math.exp(float(query[i] @ queue[j]) / 0.2) for j in range(11))
        losses.append(-math.log(positive / (positive + negatives)))
    assert float(info_nce(query, key, queue, 0.2)) == pytest.approx(sum(losses) / 5, abs=1e-6)


def test_alignment_equals_the_obvious_loop_and_its_entropy_is_the_floor() -> None:
    query, key, queue = unit(4, 6, seed=0), unit(4, 6, seed=1), unit(9, 6, seed=2)
    total = 0.0
    for i in range(4):
        teacher = [math.exp(float(key[i] @ queue[j]) / 0.04) for j in range(9)]
        student = [math.exp(float(query[i] @ queue[j]) / 0.1) for j in range(9)]
        total -= sum(t / sum(teacher) * math.log(s / sum(student)) for t, s in zip(teacher, student, strict=True))
    value = alignment(query, key, queue, 0.1, 0.04)
    assert float(value.loss) == pytest.approx(total / 4, abs=1e-5)
    same = alignment(key, key, queue, 0.04, 0.04)
    assert float(same.loss - same.teacher_entropy) == pytest.approx(0, abs=1e-5)
    assert float(value.loss - value.teacher_entropy) > 0.1


@pytest.mark.parametrize("rows", [1, 64, 1000])
def test_equal_similarities_give_log_of_all_candidates(rows: int) -> None:
    row = unit(1, 8, seed=3)
    loss = info_nce(row.expand(6, 8), row.expand(6, 8), row.expand(rows, 8), 0.07)
    assert float(loss) == pytest.approx(math.log(rows + 1), abs=1e-4)


def test_the_teacher_and_the_interpolated_target_carry_no_gradient() -> None:
    teacher = unit(3, 4, seed=1).requires_grad_()
    student = unit(3, 4, seed=0).requires_grad_()
    distribution_alignment(student, teacher, unit(5, 4, seed=2), 0.1, 0.04).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert not interpolation_target(student, teacher, torch.tensor([1, 2, 0]), 0.3).requires_grad


def test_losses_are_float32_under_autocast() -> None:
    query, key, queue = unit(4, 8, seed=0), unit(4, 8, seed=1), unit(16, 8, seed=2)
    plain = contrast(query, key, queue, 0.05).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = contrast(query, key, queue, 0.05).loss
    assert under.dtype == torch.float32
    assert torch.equal(plain, under)


def test_shapes_and_temperatures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="negatives"):
        info_nce(unit(4, 8, seed=0), unit(4, 8, seed=1), unit(16, 7, seed=2), 0.1)
    with pytest.raises(ValueError, match="temperature"):
        info_nce(unit(4, 8, seed=0), unit(4, 8, seed=1), unit(16, 8, seed=2), 0.0)
    with pytest.raises(ValueError, match="equal"):
        info_nce(unit(4, 8, seed=0), unit(3, 8, seed=1), unit(16, 8, seed=2), 0.1)


def test_the_ratio_is_the_true_area_of_the_clipped_box() -> None:
    box = cutmix_box(0.75, (0.0, 0.0), 32, 32)  # half a side, centred on the corner: a quarter of it remains
    assert box == Box(0, 0, 8, 8)
    query, key = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    mixed, ratio = cutmix(query, key, torch.tensor([1, 0]), box)
    assert ratio == 1 - 64 / 1024
    assert mixed.mean().item() == pytest.approx(1 - ratio)


def test_the_mean_ratio_over_uniform_mixes_is_that_of_the_method() -> None:
    generator = np.random.default_rng(0)
    ratios = [
        1 - cutmix_box(generator.random(), tuple(generator.random(2)), 224, 224).area / 224**2 for _ in range(4000)
    ]
    assert np.mean(ratios) == pytest.approx(0.68, abs=0.02)


def test_mixup_blends_with_the_permuted_key_view() -> None:
    query, key = torch.zeros(2, 3, 4, 4), torch.stack([torch.full((3, 4, 4), 1.0), torch.full((3, 4, 4), 2.0)])
    mixed, ratio = mixup(query, key, torch.tensor([1, 0]), 0.25)
    assert ratio == 0.25
    assert mixed[0].unique().tolist() == [1.5]
    assert mixed[1].unique().tolist() == [0.75]
