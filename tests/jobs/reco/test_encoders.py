"""Encoders under torchvision's names, and batch norm with statistics per group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jobs.reco.encoders import build_encoder
from jobs.reco.normalisation import GroupedBatchNorm2d, _GroupedNorm

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
PARAMETERS_WITHOUT_FC = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
}


def torchvision_names(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dict without `fc`, written down from its published layout."""
    bottleneck = name in ("resnet50", "resnet101")
    expansion = 4 if bottleneck else 1
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(prefix: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}.{leaf}"] = (channels,)
        shapes[f"{prefix}.num_batches_tracked"] = ()

    norm("bn1", 64)
    channels = 64
    for stage, depth in enumerate(DEPTHS[name], start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            if bottleneck:
                shapes[f"{prefix}.conv1.weight"] = (width, channels, 1, 1)
                shapes[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
                shapes[f"{prefix}.conv3.weight"] = (width * 4, width, 1, 1)
                for number, size in ((1, width), (2, width), (3, width * 4)):
                    norm(f"{prefix}.bn{number}", size)
            else:
                shapes[f"{prefix}.conv1.weight"] = (width, channels, 3, 3)
                shapes[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
                norm(f"{prefix}.bn1", width)
                norm(f"{prefix}.bn2", width)
            if block == 0 and (stage > 1 or bottleneck):
                shapes[f"{prefix}.downsample.0.weight"] = (width * expansion, channels, 1, 1)
                norm(f"{prefix}.downsample.1", width * expansion)
            channels = width * expansion
    return shapes


@pytest.mark.parametrize("name", DEPTHS)
def test_state_dict_has_exactly_torchvisions_names_and_shapes(name: str) -> None:
    encoder = build_encoder(name)
    assert {key: tuple(value.shape) for key, value in encoder.state_dict().items()} == torchvision_names(name)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == PARAMETERS_WITHOUT_FC[name]


def test_the_cifar_stem_differs_in_conv1_only() -> None:
    cifar = {key: tuple(value.shape) for key, value in build_encoder("resnet18", stem="cifar").state_dict().items()}
    assert cifar == torchvision_names("resnet18") | {"conv1.weight": (64, 3, 3, 3)}


@pytest.mark.parametrize(("stem", "stride"), [("cifar", 8), ("imagenet", 32)])
@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_features_have_the_stated_length(name: str, stem: str, stride: int) -> None:
    encoder = build_encoder(name, stem=stem, width=8)  # type: ignore[arg-type]
    seen: list[torch.Size] = []
    encoder.layer4.register_forward_hook(lambda *call: seen.append(call[2].shape))
    features = encoder(torch.randn(4, 3, 64, 64))
    assert features.shape == (4, encoder.feature_dim)
    assert seen[0][2:] == (64 // stride, 64 // stride)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet10, resnet18"):
        build_encoder("resnet19")


def one_by_one(norms: list[nn.BatchNorm2d], x: torch.Tensor) -> torch.Tensor:
    return torch.cat([norm(part) for norm, part in zip(norms, x.chunk(len(norms)), strict=True)])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_grouped_norm_equals_one_batch_norm_a_group(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    grouped = GroupedBatchNorm2d(6)
    nn.init.uniform_(grouped.weight)
    nn.init.uniform_(grouped.bias)
    grouped.groups = 4
    separate = [nn.BatchNorm2d(6) for _ in range(4)]
    for norm in separate:
        norm.load_state_dict(grouped.state_dict())
    x = (torch.randn(12, 6, 5, 5) * 3 + torch.arange(12).view(12, 1, 1, 1)).to(memory_format=layout)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(12, 6, 5, 5)
    out = grouped(a)
    expected = one_by_one(separate, b)
    out.backward(upstream)
    expected.backward(upstream)

    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-5)
    torch.testing.assert_close(grouped.weight.grad, sum(norm.weight.grad for norm in separate))
    torch.testing.assert_close(grouped.running_mean, torch.stack([n.running_mean for n in separate]).mean(0))
    torch.testing.assert_close(grouped.running_var, torch.stack([n.running_var for n in separate]).mean(0))


def test_the_form_for_accelerators_equals_the_native_kernels() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 6, 5, 5, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    bias = torch.rand(6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(12, 6, 5, 5, dtype=torch.float64)

    def gradients(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(output, (x, weight, bias), upstream)

    fused = _GroupedNorm.apply(x, weight, bias, 4, 1e-5)[0]
    native = torch.cat([nn.functional.batch_norm(part, None, None, weight, bias, True) for part in x.chunk(4)])
    torch.testing.assert_close(fused, native, rtol=0, atol=1e-5)
    for ours, theirs in zip(gradients(fused), gradients(native), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_evaluation_uses_the_running_statistics_whatever_the_groups() -> None:
    norm = GroupedBatchNorm2d(3)
    norm.groups = 2
    norm(torch.randn(8, 3, 4, 4))
    norm.eval()
    x = torch.randn(5, 3, 4, 4)  # not divisible: groups do not matter any more
    mean, std = norm.running_mean.view(1, 3, 1, 1), (norm.running_var.view(1, 3, 1, 1) + norm.eps).sqrt()
    torch.testing.assert_close(norm(x), (x - mean) / std)


def test_a_batch_that_the_groups_do_not_divide_is_refused() -> None:
    norm = GroupedBatchNorm2d(3)
    norm.groups = 4
    with pytest.raises(ValueError, match="batch of 6"):
        norm(torch.randn(6, 3, 4, 4))
