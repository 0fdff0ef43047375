"""Two specs have one hash exactly where they are one experiment."""

from __future__ import annotations

import pytest

from jobs.spec import options, parse_spec, to_yaml

SPEC = """\
name: cifar10-reco
data:
  train: s3://datasets/cifar10/train
  probe: {train: s3://datasets/cifar10/train, valid: s3://datasets/cifar10/valid}
  image_size: 32
encoder: {name: resnet18, stem: cifar}
method: {queue_size: 4096, momentum: 0.99, temperature: 0.1}
optimizer: {lr: 0.06, weight_decay: 5e-4}
train: {global_batch_size: 512}
register: {model: cifar10-encoder}
"""

# Another value for each option; the hash must tell each from SPEC's.
OTHER = {
    "data.train": "elsewhere", "data.probe": "null", "data.probe.train": "x", "data.probe.valid": "x",
    "data.probe.test": "x", "data.probe.k": "5", "data.index": "x", "data.image_size": "64", "data.lanes": "16",
    "data.shuffle_shards": "2",
    "encoder.name": "resnet34", "encoder.stem": "imagenet", "encoder.width": "32",
    "method.projection_dim": "64", "method.queue_size": "1024", "method.momentum": "0.9", "method.temperature": "0.3",
    "method.groups": "4", "method.global_relation.weight": "0", "method.global_relation.student_temperature": "0.2",
    "method.global_relation.teacher_temperature": "0.05", "method.local_relation.weight": "2",
    "method.local_relation.mix": "mixup", "method.local_relation.alpha": "2", "views.crop_scale": "[0.1, 1]",
    "views.flip": "0", "views.jitter": "0", "views.brightness": "0", "views.contrast": "0", "views.saturation": "0",
    "views.hue": "0", "views.greyscale": "0", "views.blur": "0.5", "optimizer.lr": "0.03", "optimizer.momentum": "0.8",
    "optimizer.weight_decay": "0", "train.epochs": "100", "train.warmup_epochs": "0", "train.global_batch_size": "256",
    "train.precision": "fp32", "train.compile": "true", "train.seed": "1", "train.log_every": "5",
    "train.probe_every": "5",
}  # fmt: skip

SAME_EXPERIMENT = {
    "name": "other", "scale.workers": "8", "scale.gpus_per_worker": "0", "scale.cpus_per_worker": "1",
    "scale.max_restarts": "0", "scale.min_workers": "1", "scale.stall_minutes": "1",
    "scale.cache_folder": "x", "scale.cache_gb": "1", "data.bad_pictures": "0.1",
    "checkpoint.every": "1h", "checkpoint.keep": "1", "register": "null",
    "register.model": "other",
}  # fmt: skip


def test_hash_is_the_same_as_ever() -> None:
    assert parse_spec(SPEC).hash == "11c9848a0f2b6fb9"


def test_every_option_is_either_in_the_hash_or_known_to_be_outside() -> None:
    sections = {"data", "encoder", "method", "views", "optimizer", "train", "scale", "checkpoint"}
    relations = {"method.global_relation", "method.local_relation"}
    single_valued = {"optimizer.name"}
    assert {
        each.path for each in options()
    } == OTHER.keys() | SAME_EXPERIMENT.keys() | sections | relations | single_valued


@pytest.mark.parametrize(("path", "value"), OTHER.items())
def test_hash_tells_experiments_apart(path: str, value: str) -> None:
    assert parse_spec(SPEC, [f"{path}={value}"]).hash != parse_spec(SPEC).hash


@pytest.mark.parametrize(("path", "value"), SAME_EXPERIMENT.items())
def test_hash_ignores_how_a_run_is_carried_out(path: str, value: str) -> None:
    assert parse_spec(SPEC, [f"{path}={value}"]).hash == parse_spec(SPEC).hash


def test_hash_ignores_the_order_of_keys_and_defaults_that_are_spelled_out() -> None:
    spec = parse_spec(SPEC)
    assert parse_spec(to_yaml(spec)).hash == spec.hash
    head, *rest = SPEC.split("encoder:")
    assert parse_spec(f"encoder:{rest[0]}{head}").hash == spec.hash
    assert (
        parse_spec(SPEC, ["data.lanes=8", "views.blur=0", "method.groups=8", "train.warmup_epochs=5"]).hash == spec.hash
    )


def test_hash_does_not_tell_1_from_1_0() -> None:
    assert parse_spec(SPEC, ["views.flip=1"]).hash == parse_spec(SPEC, ["views.flip=1.0"]).hash
