"""ResNet backbones under torchvision's parameter names (He et al., 2016), without the classifier."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from jobs.reco.normalisation import GroupedBatchNorm2d

Stem = Literal["imagenet", "cifar"]

ENCODERS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]]


def build_encoder(name: str, stem: Stem = "imagenet", width: int = 64) -> ResNet:
    """Build a backbone with fresh weights.

    Args:
        name: resnet10, resnet18, resnet34, resnet50 or resnet101.
        stem: `imagenet` (7×7 stride 2, then max-pool) or `cifar` (3×3 stride 1, no pooling; for pictures up to 64 px).
        width: Channels of the first stage; 64 is the published network.

    Returns:
        A module from (n, 3, h, w) to features of shape (n, `feature_dim`). Its state dict has exactly torchvision's
        names and shapes without `fc.*` (with width 64; with the CIFAR stem `conv1.weight` is 64×3×3×3).

    Raises:
        ValueError: If the name or the stem is unknown.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"unknown stem {stem!r}; known: imagenet, cifar")
    block, depths = ENCODERS[name]
    return ResNet(block, depths, stem=stem, width=width)


class ResNet(nn.Module):
    """A residual network that ends in globally averaged features.

    Attributes:
        feature_dim: Length of a feature vector.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        stem: Stem,
        width: int,
    ) -> None:
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = GroupedBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self._channels = width
        self.layer1 = self._stage(block, width, depths[0], stride=1)
        self.layer2 = self._stage(block, width * 2, depths[1], stride=2)
        self.layer3 = self._stage(block, width * 4, depths[2], stride=2)
        self.layer4 = self._stage(block, width * 8, depths[3], stride=2)
        self.feature_dim = self._channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 3, h, w) normalised pictures to (n, feature_dim) features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(pictures))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.mean(x, dim=(2, 3))

    def _stage(
        self, block: type[BasicBlock] | type[Bottleneck], width: int, depth: int, *, stride: int
    ) -> nn.Sequential:
        layers: list[nn.Module] = []
        for number in range(depth):
            layers.append(block(self._channels, width, stride=stride if number == 0 else 1))
            self._channels = width * block.expansion
        return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = GroupedBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = GroupedBatchNorm2d(width)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, width, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        output: Tensor = self.relu(y)
        return output


class Bottleneck(nn.Module):
    """1×1, 3×3 (which carries the stride, as torchvision's does) and 1×1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = GroupedBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = GroupedBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = GroupedBatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, 4 · width, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        output: Tensor = self.relu(y)
        return output


def _shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), GroupedBatchNorm2d(width))


ENCODERS = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
