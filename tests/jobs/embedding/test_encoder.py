"""An encoder from its files: what it was registered with is used, and what does not fit is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jobs.embedding.encoder import Preprocessing, load_encoder, normalised_anew, pack_encoder
from jobs.tracking.errors import DamagedEncoderError
from jobs.tracking.files import CONFIG
from tests.jobs.embedding.made import MEAN, STD, make_encoder


def without_width(config: dict[str, object]) -> None:
    del config["width"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_width, "does not say what the encoder is ('width' is missing)"),
        (lambda config: config.update(width="wide"), "does not say what the encoder is (invalid literal"),
        (lambda config: config.update(width=-8), "does not say what the encoder is"),
        (lambda config: config.update(name="resnet11"), "unknown encoder 'resnet11'"),
        (lambda config: config.update(width=16), "not those of a resnet10 of width 16 with the cifar stem"),
    ],
    ids=["missing", "no-number", "negative", "network", "weights"],
)
def test_files_that_do_not_fit_each_other_are_a_damaged_encoder(
    tmp_path: Path, damage: Callable[[dict[str, object]], None], words: str
) -> None:
    folder = make_encoder(tmp_path / "photos-encoder")
    config = json.loads((folder / CONFIG).read_text())
    damage(config)
    (folder / CONFIG).write_text(json.dumps(config))
    packed = pack_encoder(str(folder), tmp_path)
    for load in (lambda: load_encoder(folder), lambda: packed.unpack(torch.device("cpu"))):
        with pytest.raises(DamagedEncoderError, match="photos-encoder") as raised:
            load()
        assert words in raised.value.message


def test_a_loaded_encoder_comes_with_the_preprocessing_it_was_registered_with(tmp_path: Path) -> None:
    module, preprocessing = load_encoder(make_encoder(tmp_path / "encoder", mean=(0.3, 0.6, 0.1)))
    assert not module.training
    assert preprocessing == Preprocessing(image_size=16, crop_fraction=1.0, mean=(0.3, 0.6, 0.1), std=STD)


def test_views_are_normalised_by_the_encoders_own_statistics() -> None:
    pixels = torch.rand(2, 3, 4, 4)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    views = normalised(MEAN, STD)
    own = Preprocessing(4, 1.0, mean=(0.3, 0.6, 0.1), std=(0.5, 0.2, 1.0))
    torch.testing.assert_close(normalised_anew(views, own), normalised(own.mean, own.std))
    assert normalised_anew(views, Preprocessing(4, 1.0)) is views
