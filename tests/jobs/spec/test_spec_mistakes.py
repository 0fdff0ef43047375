"""Every mistake of a spec is told at once, with its path, its line, and what would be right."""
# ruff: noqa: E501  (each expected sentence stands on one line, as it is printed)

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.spec import RunSpec, SpecError, load_spec, parse_spec

MINIMAL = """\
name: tiny
data:
  train: shards
  image_size: 32
encoder:
  name: resnet18
"""


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides)
    return [str(each) for each in caught.value.mistakes]


TWENTY = """\
name: Tiny Run
data:
  trian: shards
  image_size: 0
  lanes: 12
  probe:
    train: [a, 5]
    valid: ""
encoder:
  name: resnet19
  width: 60
  width: 64
lr: 0.1
method:
  queue_size: "4096"
  groups: 8.0
  momentum: 1
  temperature: true
  local_relation: {mix: cutmux, alpha: .nan}
views:
  crop_scale: [0.9, 0.1]
optimizer: 5
train:
  epochs: 3
  compile: yes
checkpoint: {every: 5 minutes}
register: {model: 7}
telemetry: {}
"""

TWENTY_MISTAKES = [
    "line 1: name: must be 1 to 63 lower-case letters, digits and hyphens, starting with a letter or digit;"
    ' "Tiny Run" is given',
    "line 3: data.trian: unknown; did you mean `train`?",
    "line 4: data.image_size: must be a whole number from 8 to 1024; 0 is given",
    "line 7: data.probe.train[1]: must be a text; 5 is given; put it in quotes",
    "line 8: data.probe.valid: must be a text or a list of texts; an empty text is given",
    "line 10: encoder.name: must be one of resnet10, resnet18, resnet34, resnet50, resnet101; "
    '"resnet19" is given; did you mean `resnet18`?',
    "line 11: encoder.width: must be a whole number from 8 to 1024 and divisible by 8; 60 is given",
    "line 12: encoder.width: is given twice, on line 11 and on line 12; keep one",
    "line 13: lr: unknown here; did you mean `optimizer.lr`?",
    'line 15: method.queue_size: must be a whole number of at least 1; "4096" is given; leave out the quotes',
    "line 16: method.groups: must be a whole number from 1 to 1024; 8.0 is given",
    "line 17: method.momentum: must be a number of at least 0 and below 1; 1 is given",
    "line 18: method.temperature: must be a number above 0; true is given",
    'line 19: method.local_relation.mix: must be one of cutmix, mixup; "cutmux" is given; did you mean `cutmix`?',
    "line 19: method.local_relation.alpha: must be a number above 0; nan is given",
    "line 21: views.crop_scale: [0.9, 0.1] is the wrong way round; the smallest comes first: [0.1, 0.9]",
    "line 22: optimizer: must be a section with name, lr, momentum, weight_decay; 5 is given",
    "line 24: train.warmup_epochs: 5 is more than train.epochs 3",
    'line 25: train.compile: must be true or false; "yes" is given',
    "line 26: checkpoint.every: must be a duration (`90s`, `5m`, `1h`) or a number of steps (`200 steps`); "
    '"5 minutes" is given',
    "line 27: register.model: must be 1 to 128 letters, digits, dots, underscores and hyphens, starting with a letter "
    "or digit; 7 is given; put it in quotes",
    "line 28: telemetry: unknown; allowed here: name, data, encoder, method, views, optimizer, train, scale, "
    "checkpoint, register",
]


def test_all_seeded_mistakes_are_told_at_once_each_at_its_line() -> None:
    assert mistakes(TWENTY) == TWENTY_MISTAKES


def test_the_error_is_the_users_and_counts_its_mistakes() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(TWENTY, source="run.yaml")
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_code == 2
    assert caught.value.message.splitlines()[:2] == ["run.yaml has 22 mistakes:", f"  {TWENTY_MISTAKES[0]}"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the spec is empty; `reco spec explain` lists what it may hold"),
        ("# only a remark\n", "the spec is empty; `reco spec explain` lists what it may hold"),
        ("- name: x\n", "line 1: must be sections such as `data:` and `encoder:`, not [a section with name]"),
        ("\njust words\n", 'line 2: must be sections such as `data:` and `encoder:`, not "just words"'),
        ("name: x\ndata:\n\ttrain: s\n", "line 3: not YAML: a tab is used for indentation; use spaces"),
        ("name: x\ndata: {train: [a\n", "line 3: not YAML: expected ',' or ']', but got '<stream end>'; while parsing a flow sequence"),
        ("name: a: b\n", "line 1: not YAML: mapping values are not allowed here"),
        ("name: x\n---\nname: y\n", "line 2: holds a second document; a spec is one document"),
        ("name: x\ndata: &d {train: s}\nencoder: *d\n", "line 3: `*d`: anchors and aliases are not read; write the value out"),
        ("name: !!python/name:os.system x\n", "line 1: `tag:yaml.org,2002:python/name:os.system`: tags are not read; leave it out"),
        ("name: x\x07\n", "line 1: not YAML: the character U+0007 may not stand in a text file"),
        ("a: " + "[" * 3000, "not a spec: the text is nested too deeply"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_spec_gives_one_clear_line(text: str, told: str) -> None:
    assert mistakes(text) == [told]


def test_missing_options_are_told_at_the_line_of_their_section() -> None:
    assert mistakes("\nname: x\ndata:\n  lanes: 8\nregister: {}\n") == [
        "line 2: encoder: is missing; must be a section with name, stem, width",
        "line 3: data.train: is missing; must be a text or a list of texts",
        "line 3: data.image_size: is missing; must be a whole number from 8 to 1024",
        "line 5: register.model: is missing; must be 1 to 128 letters, digits, dots, underscores and hyphens, "
        "starting with a letter or digit",
    ]


def test_a_section_that_is_named_and_left_empty_is_told() -> None:
    told = "line 7: views: must be a section with crop_scale, flip, jitter, brightness, contrast, saturation, hue, greyscale, blur; null is given"
    assert mistakes(MINIMAL + "views:\n") == [told]


def test_items_of_a_list_are_told_at_their_own_lines() -> None:
    text = MINIMAL.replace("train: shards", "train:\n    - a\n    - 1\n    - null")
    assert mistakes(text) == [
        "line 5: data.train[1]: must be a text; 1 is given; put it in quotes",
        "line 6: data.train[2]: must be a text; null is given",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.global_batch_size=500",
         "train.global_batch_size: 500 is not divisible by method.groups 8; the nearest that are: 496, 504"),
        ("train.global_batch_size=5", "train.global_batch_size: 5 is not divisible by method.groups 8; the nearest that is: 16"),
        ("train.global_batch_size=8",
         "train.global_batch_size: 8 over method.groups 8 leaves 1 picture per group; batch statistics need 2, so 16"),
        ("data.lanes=12", "data.lanes: 12 is not divisible by method.groups 8; the nearest that are: 8, 16"),
        ("data.lanes=48", "train.global_batch_size: 256 is not divisible by data.lanes 48; the nearest that are: 240, 288"),
        ("scale.workers=3", "scale.workers: 3 workers cannot share method.groups 8 equally; 8 is divisible by 1, 2, 4, 8"),
        ("method.queue_size=128",
         "method.queue_size: 128 is smaller than train.global_batch_size 256; the queue must hold at least one batch"),
        ("train.epochs=4", "train.warmup_epochs: 5 is more than train.epochs 4"),
        ("views.crop_scale=[1, 0.5]", "views.crop_scale: [1, 0.5] is the wrong way round; the smallest comes first: [0.5, 1]"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_told_with_the_actual_numbers(change: str, told: str) -> None:
    assert f"--set {change}: {told}" in mistakes(MINIMAL, change)
    section, key = change.partition("=")[0].split(".")
    text = MINIMAL if section == "data" else f"{MINIMAL}{section}:\n"
    line = f"  {key}: {change.partition('=')[2]}\n"
    text = text.replace("data:\n", f"data:\n{line}") if section == "data" else text + line
    number = text.splitlines().index(line.rstrip("\n")) + 1
    assert f"line {number}: {told}" in mistakes(text)


def test_a_rule_is_not_judged_by_a_value_that_is_itself_a_mistake() -> None:
    assert mistakes(MINIMAL, "method.groups=0", "train.global_batch_size=7") == [
        "--set method.groups=0: method.groups: must be a whole number from 1 to 1024; 0 is given"
    ]
    assert mistakes(MINIMAL + "method: {gruops: 4}\n", "train.global_batch_size=12") == [
        "line 7: method.gruops: unknown; did you mean `groups`?"
    ]


def test_the_rules_hold_for_specs_made_in_python_too() -> None:
    values = parse_spec(MINIMAL).model_dump()
    values["train"]["global_batch_size"] = 500
    with pytest.raises(ValueError, match=r"500 is not divisible by method\.groups 8"):
        RunSpec.model_validate(values)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(MINIMAL.encode() + b"# \xff\n")

    def told(path: Path) -> str:
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        return str(caught.value.mistakes[0])

    assert told(tmp_path / "rnu.yaml") == f"no such file; did you mean `{tmp_path / 'run.yaml'}`?"
    assert told(tmp_path / "nowhere" / "run.yaml") == "no such file"
    assert told(tmp_path) == "cannot be read: is a directory"
    assert told(tmp_path / "run.yaml") == "line 7: not text in UTF-8; save the file in that encoding"
