"""`reco spec`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.spec import RunSpec, parse_spec
from service.cli.main import app

SPEC = """\
name: tiny
data: {train: shards, image_size: 32}
encoder: {name: resnet18, stem: cifar}
method: {groups: 8, queue_size: 4096}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SPEC)
    return path


def reco(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["spec", *map(str, arguments)])


def test_validate_prints_the_hash_and_what_the_spec_comes_to(path: Path) -> None:
    ended = reco("validate", path, "--set", "scale.workers=4", "--set", "register.model=enc")
    assert ended.exit_code == 0
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert lines[0] == f"✓ {path} is valid"
    assert f"hash {parse_spec(SPEC).hash}" in lines
    assert "batch 256 pictures per step = 8 groups of 32" in lines
    assert "workers 4, each with 1 GPU, 4 CPU cores, 2 of the groups" in lines
    assert "method ReCo: global relation 1, local relation 1 (cutmix)" in lines
    assert "registers enc" in lines


def test_validate_says_that_a_spec_without_relations_is_moco(path: Path) -> None:
    changes = ("--set", "method.global_relation.weight=0", "--set", "method.local_relation.weight=0")
    assert "MoCo v2: both relations are switched off" in reco("validate", path, *changes).stdout


def test_validate_lists_all_mistakes_and_leaves_with_2(path: Path) -> None:
    path.write_text(SPEC.replace("image_size: 32", "image_sise: 32"))
    ended = reco("validate", path, "--set", "train.epochs=0")
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        f"error: {path} has 2 mistakes:",
        "  line 2: data.image_sise: unknown; did you mean `image_size`?",
        "  --set train.epochs=0: train.epochs: must be a whole number of at least 1; 0 is given",
    ]


def test_validate_as_json_tells_both_outcomes(path: Path) -> None:
    good = reco("validate", path, "--json")
    told = json.loads(good.stdout)
    assert (good.exit_code, told["valid"], told["hash"]) == (0, True, parse_spec(SPEC).hash)
    assert RunSpec.model_validate_json(json.dumps(told["spec"])) == parse_spec(SPEC)
    bad = reco("validate", path, "--json", "--set", "train.epochs=0")
    assert bad.exit_code == 2
    assert json.loads(bad.stdout) == {
        "valid": False,
        "source": str(path),
        "mistakes": [
            {
                "path": "train.epochs",
                "line": None,
                "override": "train.epochs=0",
                "message": "must be a whole number of at least 1; 0 is given",
            }
        ],
    }


def test_schema_is_that_of_the_models() -> None:
    told = json.loads(reco("schema").stdout)
    assert told.pop("$schema").startswith("https://json-schema.org/")
    assert told == RunSpec.model_json_schema()


def test_explain_narrows_to_a_section() -> None:
    lines = [" ".join(line.split()) for line in reco("explain", "method.global_relation").stdout.splitlines()]
    assert [line.split(" ")[0] for line in lines if line and not line.startswith("─")] == [
        "Option", "method.global_relation", "weight", "student_temperature", "teacher_temperature",
    ]  # fmt: skip
    assert "weight 1.0 a number of at least 0 Weight of the term in the loss; 0 leaves it out, at no cost." in lines


def test_explain_as_json_tells_every_option() -> None:
    told = {each["path"]: each for each in json.loads(reco("explain", "--json").stdout)}
    assert told["data.train"]["required"] is True
    assert "default" not in told["data.train"]
    assert told["register"]["default"] is None
    assert told["views.crop_scale"]["default"] == [0.2, 1.0]


def test_explain_of_an_unknown_option_names_the_nearest() -> None:
    ended = reco("explain", "metod.groups")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr == "error: there is no option `metod.groups`.\n  → Did you mean `method.groups`?\n"
