"""Weights by the names that torchvision and detectron2 know, and what is said where their networks differ."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from jobs.tracking.files import REFERENCE, WEIGHTS
from tests.jobs.exporting.made import Main, left_in, save


def resnet50_of_detectron2() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Detectron2's names of R-50, torchvision's, and shapes: stem, then res2 to res5 of 3, 4, 6 and 3 bottlenecks."""

    def layer(theirs: str, conv: str, norm: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        yield f"{theirs}.weight", f"{conv}.weight", shape
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"{theirs}.norm.{leaf}", f"{norm}.{leaf}", shape[:1]
        yield f"{theirs}.norm.num_batches_tracked", f"{norm}.num_batches_tracked", ()

    yield from layer("stem.conv1", "conv1", "bn1", (64, 3, 7, 7))
    channels = 64
    for theirs, ours, depth, middle in (
        ("res2", "layer1", 3, 64),
        ("res3", "layer2", 4, 128),
        ("res4", "layer3", 6, 256),
        ("res5", "layer4", 3, 512),
    ):
        for block in range(depth):
            out, own = f"{theirs}.{block}", f"{ours}.{block}"
            if block == 0:
                shape = (4 * middle, channels, 1, 1)
                yield from layer(f"{out}.shortcut", f"{own}.downsample.0", f"{own}.downsample.1", shape)
            yield from layer(f"{out}.conv1", f"{own}.conv1", f"{own}.bn1", (middle, channels, 1, 1))
            yield from layer(f"{out}.conv2", f"{own}.conv2", f"{own}.bn2", (middle, middle, 3, 3))
            yield from layer(f"{out}.conv3", f"{own}.conv3", f"{own}.bn3", (4 * middle, middle, 1, 1))
            channels = 4 * middle


class Restricted(pickle.Unpickler):
    """Reads what any NumPy and nothing but NumPy can make."""

    def find_class(self, module: str, name: str) -> object:
        assert (module, name) in {("numpy", "ndarray"), ("builtins", "bytearray")}
        return super().find_class(module, name)


def test_detectron2_gets_its_own_names_shapes_and_every_value(run: Main, tmp_path: Path) -> None:
    source = save(tmp_path / "source", "resnet50", stem="imagenet", width=64, size=64)
    code, said, _ = run(source, "detectron2", tmp_path / "photos.pkl", "--json")
    assert code == 0
    content = Restricted(io.BytesIO((tmp_path / "photos.pkl").read_bytes()), encoding="latin1").load()
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    weights, layout = load_file(source / WEIGHTS), list(resnet50_of_detectron2())
    assert {name: array.shape for name, array in content["model"].items()} == {n: shape for n, _, shape in layout}
    for theirs, ours, _ in layout:
        array = content["model"][theirs]
        assert array.flags.writeable, "torch warns about arrays that are not"
        assert torch.equal(torch.from_numpy(array), weights[ours]), theirs

    config = yaml.safe_load(json.loads(said)["load"])
    assert config["MODEL"]["WEIGHTS"] == str(tmp_path / "photos.pkl")
    assert config["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert config["MODEL"]["RESNETS"] == {"DEPTH": 50, "STRIDE_IN_1X1": False, "NORM": "SyncBN"}
    assert config["INPUT"]["FORMAT"] == "RGB"


@pytest.mark.parametrize(
    ("network", "stem", "width", "words"),
    [
        ("resnet18", "cifar", 64, "it has the CIFAR stem"),
        ("resnet10", "imagenet", 64, "neither torchvision nor timm has a resnet10"),
        ("resnet18", "imagenet", 8, "its first stage has 8 channels, theirs 64"),
    ],
)
def test_what_torchvision_does_not_have_is_said(
    run: Main, tmp_path: Path, network: str, stem: str, width: int, words: str
) -> None:
    source = save(tmp_path / "source", network, stem=stem, width=width, size=32)
    code, said, _ = run(source, "safetensors", tmp_path / "e.safetensors")
    assert code == 0
    (caveat,) = [line for line in said.splitlines() if line.startswith("! ")]
    assert words in caveat
    assert "timm.create_model" not in said


def test_a_width_of_ones_own_is_loaded_by_the_printed_lines(run: Main, tmp_path: Path) -> None:
    source = save(tmp_path / "source", "resnet18", stem="cifar", width=8, size=32)
    _, said, _ = run(source, "safetensors", tmp_path / 'e "1".safetensors', "--json")
    space: dict[str, nn.Module] = {}
    exec(json.loads(said)["load"], space)
    kept = load_file(source / REFERENCE)
    torch.testing.assert_close(space["network"](kept["pictures"]), kept["features"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("network", "stem", "width", "words"),
    [
        ("resnet50", "cifar", 8, "this one has the cifar stem"),
        ("resnet10", "imagenet", 64, "it has no resnet10"),
        ("resnet18", "imagenet", 8, "begins with 64 channels, this one with 8"),
    ],
)
def test_detectron2_is_not_given_what_it_would_silently_pass_over(
    run: Main, tmp_path: Path, network: str, stem: str, width: int, words: str
) -> None:
    source = save(tmp_path / "source", network, stem=stem, width=width, size=32)
    code, _, error = run(source, "detectron2", tmp_path / "e.pkl")
    assert (code, "detectron2 cannot use source" in error, words in error) == (2, True, True), error
    assert left_in(tmp_path) == {"source"}


def test_detectron2s_config_gives_the_width_of_a_bottleneck_net(run: Main, tmp_path: Path) -> None:
    source = save(tmp_path / "source", "resnet50", stem="imagenet", width=8, size=32)
    _, said, _ = run(source, "detectron2", tmp_path / "e.pkl", "--json")
    resnets = yaml.safe_load(json.loads(said)["load"])["MODEL"]["RESNETS"]
    # As its builder derives them: the stem's channels, those inside and those after the blocks of res2.
    assert (resnets["STEM_OUT_CHANNELS"], resnets["WIDTH_PER_GROUP"], resnets["RES2_OUT_CHANNELS"]) == (8, 8, 32)
