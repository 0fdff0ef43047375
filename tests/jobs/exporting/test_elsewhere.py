"""An exported encoder in the hands of another program: a plain ResNet, ONNX Runtime, torch, and MLflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from jobs.tracking.encoders import register_encoder
from jobs.tracking.files import PREPROCESSING, WEIGHTS, sha256
from jobs.tracking.models import fetch_encoder
from jobs.tracking.runs import open_run
from jobs.views import STD, Pictures, centre_view
from tests.jobs.exporting.made import Main, amend, encoder_of, left_in, settings

SIZE = 64
SPEC = f"name: photos\ndata: {{train: shards, image_size: {SIZE}}}\nencoder: {{name: resnet18}}\n"


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    return encoder_of("resnet18", stem="imagenet", width=64, size=SIZE)


@pytest.fixture(scope="module")
def uri(encoder: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of MLflow's in which `photos-encoder/1` is that encoder."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts the artifacts of a store without a server
        address = f"sqlite:///{folder / 'mlflow.db'}"
        register_encoder(
            open_run(address, experiment="e", run_id="run-0", name="n", params={}, tags={}),
            name="photos-encoder",
            encoder=encoder,
            encoder_config={"name": "resnet18", "stem": "imagenet", "width": 64},
            preprocessing=settings(SIZE),
            spec_yaml=SPEC,
            dataset_hash="d1ce",
            metrics={"knn": 0.5},
            card="An encoder.",
        )
    return address


@pytest.fixture(scope="module")
def folder(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_encoder("photos-encoder", uri, tmp_path_factory.mktemp("fetched") / "photos")


def fresh(script: str, cwd: Path, *arguments: str, **environment: str) -> None:
    """Run Python that knows nothing of this project but what its files say."""
    given = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", **environment}
    given.pop("PYTHONPATH", None)
    checked = f"{script}\nimport sys\nassert not [name for name in sys.modules if name.split('.')[0] == 'jobs']\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", checked, *arguments],
        cwd=cwd,
        env=given,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def batches(encoder: nn.Module, tmp_path: Path) -> Callable[[], None]:
    """Puts pictures into 1.npy and 3.npy; what it gives back compares them with features-1.npy and features-3.npy."""
    expected = {}
    for count in (1, 3):
        pictures = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))
        np.save(tmp_path / f"{count}.npy", pictures.numpy())
        expected[count] = encoder(pictures).numpy()

    def compare() -> None:
        for count, features in expected.items():
            assert np.abs(features).max() > 0.5, "features near zero would equal anything"
            np.testing.assert_allclose(np.load(tmp_path / f"features-{count}.npy"), features, atol=1e-4, rtol=0)

    return compare


def assert_of_no_machine(path: Path) -> None:
    """A graph remembers the lines of Python it comes from, unless it is told not to."""
    content = path.read_bytes()
    for folder in (Path.cwd(), Path(torch.__file__).parent):
        assert str(folder).encode() not in content


class Seen(dict[str, Tensor]):
    """Weights that remember which of them were asked for."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__(weights)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)


def plain_resnet(weights: dict[str, Tensor], pictures: Tensor, depths: tuple[int, ...]) -> Tensor:
    """A ResNet of basic blocks by torchvision's names, up to the pooled features."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.max_pool2d(F.relu(norm("bn1", conv("conv1", pictures, 2))), 3, 2, 1)
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)))
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in weights:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = F.relu(x + y)
    return x.mean((2, 3))


def test_safetensors_are_the_registered_bytes_and_make_a_torchvision_resnet(
    encoder: nn.Module, uri: str, run: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    out = tmp_path / "deep" / "photos.safetensors"
    code, said, _ = run("photos-encoder@candidate", "safetensors", out)
    assert code == 0
    assert f"✓ photos-encoder/1 as safetensors in {out} (44.8 MB)" in said
    assert "network = resnet18().eval()" in said
    assert "!" not in said, "nothing about this network needs a warning"
    weights = Seen(load_file(out))
    pictures = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(plain_resnet(weights, pictures, (2, 2, 2, 2)), encoder(pictures), atol=1e-4, rtol=0)
    assert set(weights) - weights.names == {name for name in weights if name.endswith("num_batches_tracked")}

    described = json.loads((tmp_path / "deep" / "photos.safetensors.json").read_text())
    assert (described["name"], described["version"], described["format"]) == ("photos-encoder", 1, "safetensors")
    assert described["preprocessing"] == settings(SIZE)
    assert described["encoder"]["sha256"] == described["file"]["sha256"] == sha256(out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["photos.safetensors", "photos.safetensors.json"]


def test_onnx_runs_without_torch_and_says_what_it_is(
    folder: Path, run: Main, batches: Callable[[], None], tmp_path: Path
) -> None:
    code, said, _ = run(folder, "onnx", tmp_path / "photos.onnx", "--json")
    assert code == 0
    result = json.loads(said)
    assert result["difference"] <= 1e-4
    script = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession("photos.onnx")
for count in (1, 3):
    (features,) = session.run(None, {"pictures": numpy.load(f"{count}.npy")})
    numpy.save(f"features-{count}.npy", features)
assert session.get_inputs()[0].shape == ["n", 3, 64, 64], session.get_inputs()[0].shape
known = session.get_modelmeta().custom_metadata_map
assert (known["reco.name"], known["reco.version"], known["reco.feature_dim"]) == ("photos", "", "512")
assert (known["reco.sha256"], json.loads(known["reco.preprocessing"])["image_size"]) == (sys.argv[1], 64)
assert "torch" not in sys.modules
"""
    fresh(script + result["load"] + "\nassert features.shape == (4, 512)", tmp_path, sha256(folder / WEIGHTS))
    batches()
    assert_of_no_machine(tmp_path / "photos.onnx")


def test_pt2_runs_with_torch_alone_and_says_what_it_is(
    folder: Path, run: Main, batches: Callable[[], None], tmp_path: Path
) -> None:
    code, said, _ = run(folder, "pt2", tmp_path / "photos.pt2", "--json")
    assert code == 0
    script = """
import json, numpy, torch
extra = {"reco.json": ""}
encoder = torch.export.load("photos.pt2", extra_files=extra).module()
for count in (1, 3):
    numpy.save(f"features-{count}.npy", encoder(torch.from_numpy(numpy.load(f"{count}.npy"))).numpy())
assert json.loads(extra["reco.json"])["preprocessing"]["image_size"] == 64
"""
    fresh(script + json.loads(said)["load"] + "\nassert features.shape == (4, 512)", tmp_path)
    batches()
    assert_of_no_machine(tmp_path / "photos.pt2")


def test_the_registered_model_runs_by_mlflow_without_pickle(
    uri: str, batches: Callable[[], None], tmp_path: Path
) -> None:
    script = """
import mlflow, numpy, torch
encoder = mlflow.pytorch.load_model("models:/photos-encoder@candidate")
for count in (1, 3):
    numpy.save(f"features-{count}.npy", encoder(torch.from_numpy(numpy.load(f"{count}.npy"))).numpy())
"""
    fresh(script, tmp_path, MLFLOW_TRACKING_URI=uri)
    batches()


def test_pictures_prepared_as_the_manual_says_are_what_the_encoder_was_judged_on(
    small: Path, run: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", Path("docs/export.md").read_text(), flags=re.DOTALL)
    amend(small, PREPROCESSING, crop_fraction=0.875)
    picture = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    run(small, "onnx", Path("photos.onnx"))
    Image.fromarray(picture).save("picture.png")
    space: dict[str, np.ndarray] = {}
    exec(code, space)
    expected = centre_view(Pictures.pack([picture]), image_size=32, crop_fraction=0.875)
    grey_level = 1 / 255 / min(STD)
    np.testing.assert_allclose(space["pictures"], expected, atol=1.01 * grey_level, rtol=0)
    assert space["pictures"].dtype == np.float32


def test_an_unknown_model_names_the_one_that_is_meant(
    uri: str, run: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, _, error = run("photo-encoder", "pt2", tmp_path / "e.pt2")
    assert code == 2
    assert "no encoder 'photo-encoder' is registered" in error
    assert "Did you mean 'photos-encoder'?" in error
    assert run(tmp_path, "pt2", tmp_path / "e.pt2")[0] == 2, "a folder without an encoder"
    assert not left_in(tmp_path)
