"""What a spec's text means: numbers, overrides, defaults, the way back to YAML, and the schema."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.spec import RunSpec, SpecError, load_spec, options, parse_spec, to_yaml

MINIMAL = "name: tiny\ndata: {train: shards, image_size: 32}\nencoder: {name: resnet18}\n"
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def mistakes(*overrides: str, text: str = MINIMAL) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides)
    return [str(each) for each in caught.value.mistakes]


@pytest.mark.parametrize(
    ("written", "meant"), [("5e-4", 5e-4), ("1e-4", 1e-4), ("5.0e-4", 5e-4), ("1E+1", 10.0), (".5", 0.5), ("2", 2.0)]
)
def test_numbers_are_read_as_yaml_1_2_has_them(written: str, meant: float) -> None:
    spec = parse_spec(f"{MINIMAL}optimizer: {{lr: {written}}}\n")
    assert spec.optimizer.lr == meant
    assert isinstance(spec.optimizer.lr, float)
    assert parse_spec(MINIMAL, [f"optimizer.lr={written}"]) == spec


@pytest.mark.parametrize(("written", "meant"), [("65_536", 65536), ("0x1000", 4096), ("01000", 1000)])
def test_whole_numbers_are_read_without_octal_surprises(written: str, meant: int) -> None:
    assert parse_spec(f"{MINIMAL}method: {{queue_size: {written}}}\n").method.queue_size == meant


@pytest.mark.parametrize("name", ["no", "on", "2026-01-01", "1e3x"])
def test_words_that_yaml_1_1_takes_for_something_else_are_texts(name: str) -> None:
    assert parse_spec(MINIMAL.replace("tiny", name)).name == name


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_spec(path) == parse_spec(MINIMAL)


def test_defaults_are_those_of_the_method() -> None:
    spec = parse_spec(MINIMAL)
    assert (spec.method.queue_size, spec.method.momentum, spec.method.temperature) == (65536, 0.999, 0.2)
    assert (spec.method.global_relation.teacher_temperature, spec.method.local_relation.mix) == (0.04, "cutmix")
    assert (spec.train.epochs, spec.train.global_batch_size, spec.optimizer.lr) == (200, 256, 0.03)
    assert (spec.views.crop_scale, spec.register, spec.data.probe) == ((0.2, 1.0), None, None)


def test_null_lanes_and_blur_take_what_they_stand_for() -> None:
    assert parse_spec(MINIMAL).lanes == 8
    assert parse_spec(MINIMAL, ["data.lanes=32"]).lanes == 32
    views = parse_spec(MINIMAL).views
    assert (views.blur_probability(32), views.blur_probability(33)) == (0.0, 0.5)
    assert parse_spec(MINIMAL, ["views.blur=0.3"]).views.blur_probability(32) == 0.3


@pytest.mark.parametrize(
    ("every", "seconds", "steps"), [("90s", 90, None), ("5m", 300, None), ("1h", 3600, None), ("200 steps", None, 200)]
)
def test_a_checkpoint_interval_is_a_duration_or_steps(every: str, seconds: int | None, steps: int | None) -> None:
    checkpoint = parse_spec(MINIMAL, [f"checkpoint.every={every}"]).checkpoint
    assert (checkpoint.seconds, checkpoint.steps) == (seconds, steps)


def test_overrides_set_values_sections_and_lists_and_the_last_one_wins() -> None:
    text = MINIMAL + "register: {model: m}\nmethod: {groups: 4, queue_size: 512}\n"
    changes = ["register=null", "data.train=[a, b]", "method={groups: 2}", "train.epochs=9", "train.epochs=10"]
    spec = parse_spec(text, [*changes, "data.probe.train=p", "data.probe.valid=v"])
    assert spec.register is None
    assert spec.data.train == ["a", "b"]
    assert (spec.method.groups, spec.method.queue_size) == (2, 65536)
    assert spec.train.epochs == 10
    assert spec.data.probe is not None
    assert spec.data.probe.valid == "v"


def test_an_override_mends_what_is_wrong_in_the_file() -> None:
    assert parse_spec(MINIMAL + "train: {epochs: 0, warmup_epochs: 0}\n", ["train.epochs=1"]).train.epochs == 1


def test_mistakes_of_overrides_name_the_override_in_the_order_given() -> None:
    told = mistakes("train.epoch=3", "foo", "data.index=[", "name.first=x", "optimizer.lr=fast", "scale={worker: 2}")
    assert told == [
        "--set train.epoch=3: train.epoch: unknown; did you mean `epochs`?",
        "--set foo: must be written as path=value, for example train.epochs=100",
        "--set data.index=[: data.index: not YAML: expected the node content, but found '<stream end>'; "
        "while parsing a flow node",
        '--set name.first=x: name.first: cannot be set, for name is "tiny" and not a section',
        '--set optimizer.lr=fast: optimizer.lr: must be a number above 0; "fast" is given',
        "--set scale={worker: 2}: scale.worker: unknown; did you mean `workers`?",
    ]


def test_mistakes_of_the_file_come_before_those_of_overrides() -> None:
    told = mistakes("train.epochs=0", text=MINIMAL + "views: {flip: 2}\n")
    assert [each.partition(": ")[0] for each in told] == ["line 4", "--set train.epochs=0"]


def test_yaml_and_json_lead_back_to_an_equal_spec() -> None:
    spec = parse_spec(MINIMAL, ["optimizer.lr=1e-5", "data.train=[ä, 'no']", "data.probe={train: a, valid: [b]}"])
    assert parse_spec(to_yaml(spec)) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


@settings(max_examples=60, deadline=None)
@example("1e5", 1e-5)
@example("0o17", 1.0)
@example("\x85a\u2028", 1.0)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.floats(min_value=1e-300, max_value=1e300))
def test_any_text_and_number_survive_the_way_through_yaml(text: str, number: float) -> None:
    values = parse_spec(MINIMAL).model_dump()
    values["data"]["train"] = text
    values["optimizer"]["lr"] = number
    spec = RunSpec.model_validate(values)
    assert parse_spec(to_yaml(spec)) == spec


def test_a_loaded_spec_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_spec(MINIMAL).train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load_and_their_full_form_keeps_to_the_schema(path: Path) -> None:
    schema = RunSpec.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(to_yaml(load_spec(path))), schema)


def test_the_schema_refuses_what_the_models_refuse() -> None:
    schema = RunSpec.model_json_schema()
    values = yaml.safe_load(MINIMAL)
    jsonschema.validate(values, schema)
    for section, key, value in (("data", "image_size", 4), ("encoder", "name", "vit"), ("data", "trian", "x")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, section: {**values[section], key: value}}, schema)


def test_every_option_describes_itself_in_one_sentence() -> None:
    for option in options():
        assert option.description.endswith("."), option.path
        assert option.allowed, option.path
    found = {each.path: each for each in options()}
    assert found["method.groups"].allowed == "a whole number from 1 to 1024"
    assert found["views.blur"].allowed == "a number from 0 to 1, or null"
    assert found["data.train"].required
