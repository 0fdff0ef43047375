"""Weights by torchvision's names, which timm's ResNets share: the registered file, and how either library takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

from jobs.exporting.encoder import PUBLISHED_WIDTH, Exportable
from jobs.exporting.files import quoted


def write_weights(encoder: Exportable, path: Path) -> None:
    """Write the weights as they were registered, byte by byte, so that their SHA-256 stays the encoder's."""
    shutil.copyfile(encoder.weights, path)


def weights_caveats(encoder: Exportable) -> list[str]:
    """In what the encoder differs from the network that torchvision and timm know by its name."""
    if encoder.width != PUBLISHED_WIDTH:
        return [
            f"neither torchvision nor timm has this network: its first stage has {encoder.width} channels, "
            f"theirs {PUBLISHED_WIDTH}, so every weight has another shape"
        ]
    found = []
    if encoder.network == "resnet10":
        found.append("neither torchvision nor timm has a resnet10 of this shape; torchvision's parts make one")
    if encoder.stem == "cifar":
        found.append(
            "it has the CIFAR stem (3×3 convolution of stride 1, no pooling); torchvision's and timm's begin with 7×7 "
            "of stride 2 and a pooling, so conv1.weight has another shape until the stem is replaced"
        )
    return found


def load_weights(encoder: Exportable, path: Path) -> str:
    """Python that loads the exported weights."""
    if encoder.width != PUBLISHED_WIDTH:
        arguments = f'"{encoder.network}", stem="{encoder.stem}", width={encoder.width}'
        return "\n".join(
            [
                "from safetensors.torch import load_file",
                "from jobs.reco import build_encoder",
                f"network = build_encoder({arguments}).eval()",
                f"network.load_state_dict(load_file({quoted(path)}))",
            ]
        )
    lines = ["import torch", "from safetensors.torch import load_file"]
    if encoder.network == "resnet10":
        lines += [
            "from torchvision.models.resnet import BasicBlock, ResNet",
            "network = ResNet(BasicBlock, [1, 1, 1, 1]).eval()",
        ]
    else:
        lines += [f"from torchvision.models import {encoder.network}", f"network = {encoder.network}().eval()"]
    if encoder.stem == "cifar":
        lines += [
            f"network.conv1 = torch.nn.Conv2d(3, {PUBLISHED_WIDTH}, 3, padding=1, bias=False)",
            "network.maxpool = torch.nn.Identity()",
        ]
    lines += [
        "network.fc = torch.nn.Identity()  # an encoder has no classifier",
        f"network.load_state_dict(load_file({quoted(path)}))",
    ]
    if encoder.network != "resnet10" and encoder.stem == "imagenet":
        lines += [f'# or: timm.create_model("{encoder.network}", num_classes=0, checkpoint_path={quoted(path)})']
    return "\n".join(lines)
