"""Encoders on their way into the registry and back: equal, whole, once, and without pickle."""

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
from mlflow import MlflowClient
from torch import nn

from jobs.errors import UserError
from jobs.tracking.encoders import RegisteredEncoder, load_encoder_files, register_encoder
from jobs.tracking.errors import DamagedEncoderError, TrackingError, UnknownModelError
from jobs.tracking.files import sha256
from jobs.tracking.models import fetch_encoder, find_model, list_models, show_model
from jobs.tracking.runs import TrackedRun

SPEC = "name: tiny\ndata: {train: shards, image_size: 12}\nencoder: {name: resnet18}\n"
NewRun = Callable[[], TrackedRun]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn1(self.conv1(pictures))).mean(dim=(2, 3))


def trained(seed: int) -> Tiny:
    torch.manual_seed(seed)
    encoder = Tiny().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder.train()
    for _ in range(3):
        encoder(torch.randn(16, 3, 12, 12) * 3 + 1)
    return encoder


def register(run: TrackedRun, name: str, encoder: nn.Module) -> RegisteredEncoder:
    return register_encoder(
        run,
        name=name,
        encoder=encoder,
        encoder_config={"name": "tiny", "stem": "cifar", "width": 8},
        preprocessing={"image_size": 12, "crop_fraction": 1.0, "mean": [0.5, 0.5, 0.5]},
        spec_yaml=SPEC,
        dataset_hash="d1ce",
        metrics={"knn": 0.875, "untrained/knn": 0.5},
        card="A tiny encoder, trained by a test.",
    )


def test_a_registered_encoder_comes_back_equal(uri: str, new_run: NewRun, tmp_path: Path) -> None:
    encoder, run = trained(0), new_run()
    registered = register(run, "equal", encoder)
    assert registered == RegisteredEncoder("equal", 1, "models:/equal/1")
    assert encoder.training, "the caller's module was changed"

    (listed,) = [each for each in list_models(uri) if each.name == "equal"]
    assert (listed.version, listed.aliases, listed.knn) == (1, ("candidate",), 0.875)
    assert (listed.run_id, listed.mlflow_run_id, listed.dataset_hash) == (run.run_id, run.mlflow_run_id, "d1ce")

    details = show_model("equal@candidate", uri)
    assert details.config["feature_dim"] == 8
    assert details.preprocessing["image_size"] == 12
    assert "A tiny encoder, trained by a test." in details.card
    assert "| knn | 0.875 |" in details.card
    assert details.files["extra_files/encoder.safetensors"] > 900
    assert not [path for path in details.files if path.endswith((".pkl", ".pth", ".pickle"))]

    folder = fetch_encoder("equal", uri, tmp_path / "fetched")
    assert (folder / "spec.yaml").read_text() == SPEC
    state_dict, config, _ = load_encoder_files(folder)
    assert (config["name"], config["stem"], config["width"]) == ("tiny", "cifar", 8)
    rebuilt = Tiny().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rebuilt.load_state_dict(state_dict)
    pictures = torch.randn(5, 3, 12, 12)
    assert torch.equal(rebuilt.eval()(pictures), encoder.eval()(pictures))


def test_the_cards_instructions_work_in_a_fresh_process_without_pickle(
    uri: str, new_run: NewRun, tmp_path: Path
) -> None:
    encoder = trained(1).eval()
    register(new_run(), "graph", encoder)
    pictures = torch.randn(7, 3, 12, 12)
    np.save(tmp_path / "pictures.npy", pictures.numpy())
    exported, plain = re.findall(r"```python\n(.*?)```", show_model("graph", uri).card, flags=re.DOTALL)
    given = re.sub(r"torch\.zeros\(.*?\).*", "torch.from_numpy(numpy.load('pictures.npy'))", exported)
    script = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
import numpy
{given}
numpy.save("features.npy", features.detach().numpy())
{plain}
assert state_dict["conv1.weight"].shape == (8, 3, 3, 3) and preprocessing["image_size"] == 12
"""
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    features = torch.from_numpy(np.load(tmp_path / "features.npy"))
    with torch.inference_mode():
        torch.testing.assert_close(features, encoder(pictures), atol=1e-4, rtol=0)


def test_registering_a_run_twice_gives_one_version_and_mends_its_alias(uri: str, new_run: NewRun) -> None:
    run, encoder = new_run(), trained(2)
    first = register(run, "twice", encoder)
    # As after a crash between the version and its alias.
    MlflowClient(uri).delete_registered_model_alias("twice", "candidate")
    assert register(run, "twice", encoder) == first
    versions = [each for each in list_models(uri) if each.name == "twice"]
    assert [(each.version, each.aliases) for each in versions] == [(1, ("candidate",))]
    # A later run takes the alias; the first one, resumed again, does not take it back.
    assert register(new_run(), "twice", encoder).version == 2
    register(run, "twice", encoder)
    assert find_model("twice@candidate", uri).version == 2


def test_a_failure_in_the_middle_registers_nothing_and_can_be_repeated(
    uri: str, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, encoder = new_run(), trained(3)
    real = MlflowClient.log_model_artifacts

    def broken(self: MlflowClient, *arguments: object) -> None:
        real(self, *arguments)
        raise OSError("the disk of the server is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", broken)
        with pytest.raises(TrackingError, match=r"could not register half: .* the disk of the server is full"):
            register(run, "half", encoder)
    assert [each for each in list_models(uri) if each.name == "half"] == []
    assert register(run, "half", encoder).version == 1


def test_an_encoder_whose_graph_differs_is_not_registered(uri: str, new_run: NewRun) -> None:
    encoder = trained(4)
    encoder.conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrackingError, match="differs from the trained one"):
        register(new_run(), "nan", encoder)
    assert [each for each in list_models(uri) if each.name == "nan"] == []


def test_a_module_without_feature_vectors_is_refused(new_run: NewRun) -> None:
    with pytest.raises(UserError, match=r"into \(2, 4, 12, 12\), not into feature vectors"):
        register(new_run(), "maps", nn.Conv2d(3, 4, 3, padding=1))


def test_a_bare_name_means_the_champion_else_the_newest(uri: str, new_run: NewRun) -> None:
    for seed in range(2):
        register(new_run(), "which", trained(seed))
    assert find_model("which", uri).version == 2
    assert find_model("which/1", uri).version == 1
    assert find_model("models:/which/1", uri).version == 1
    MlflowClient(uri).set_registered_model_alias("which", "champion", "1")
    assert find_model("which", uri).version == 1


def test_unknown_references_say_what_there_is(uri: str, new_run: NewRun, tmp_path: Path) -> None:
    register(new_run(), "digits-encoder", trained(5))
    for reference, words in {
        "digit-encoder": "Did you mean 'digits-encoder'?",
        "digits-encoder/7": "It has: 1.",
        "digits-encoder@champion": "It has: candidate.",
        "a/b/c": "Write `name`",
        "./nowhere": "holds no encoder",
        str(tmp_path): "holds no encoder",
    }.items():
        with pytest.raises(UnknownModelError, match=re.escape(words)) as caught:
            fetch_encoder(reference, uri, tmp_path / "out")
        assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.fixture
def fetched(uri: str, new_run: NewRun, tmp_path: Path) -> Path:
    try:
        find_model("fetched", uri)
    except UnknownModelError:
        register(new_run(), "fetched", trained(6))
    return fetch_encoder("fetched", uri, tmp_path / "encoder")


def test_truncated_or_changed_weights_are_refused_and_fetched_anew(uri: str, fetched: Path) -> None:
    weights = fetched / "encoder.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        weights.write_bytes(damaged)
        with pytest.raises(DamagedEncoderError, match=r"encoder\.safetensors is not the file that was registered"):
            load_encoder_files(fetched)
        with pytest.raises(DamagedEncoderError):
            fetch_encoder(str(fetched), uri, fetched.parent / "unused")
    assert fetch_encoder("fetched", uri, fetched) == fetched
    assert weights.read_bytes() == whole
    weights.unlink()
    with pytest.raises(DamagedEncoderError, match="is missing"):
        load_encoder_files(fetched)


def test_weights_that_are_no_safetensors_are_refused_even_with_a_fitting_hash(fetched: Path) -> None:
    (fetched / "encoder.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
    config = json.loads((fetched / "encoder.json").read_text())
    config["sha256"] = sha256(fetched / "encoder.safetensors")
    (fetched / "encoder.json").write_text(json.dumps(config))
    with pytest.raises(DamagedEncoderError, match="cannot be read"):
        load_encoder_files(fetched)


def test_a_folder_is_used_where_it_is_and_other_files_are_not_overwritten(
    uri: str, fetched: Path, tmp_path: Path
) -> None:
    assert fetch_encoder(str(fetched), "http://127.0.0.1:9", tmp_path / "unused") == fetched
    assert not (tmp_path / "unused").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="holds other files"):
        fetch_encoder("fetched", uri, tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_reading_the_registry_and_tracking_a_run_need_no_torch(uri: str, fetched: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import jobs.tracking.server, jobs.tracking.runs, jobs.tracking.models, jobs.tracking.figures
import service.cli.models, service.cli.tracking
heavy = {"torch", "mlflow", "matplotlib"} & sys.modules.keys()
assert not heavy, f"imported at start-up: {heavy}"
uri, folder = sys.argv[1:]
jobs.tracking.models.show_model("fetched", uri)
jobs.tracking.models.fetch_encoder("fetched", uri, Path(folder))
jobs.tracking.runs.open_run(uri, experiment="tests", run_id="light", name="n", params={}, tags={})
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script, uri, str(tmp_path / "light")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "light" / "encoder.safetensors").is_file()
