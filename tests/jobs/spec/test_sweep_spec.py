"""Sweep specs: what they mean for a trial, and every mistake told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.spec import SpecError, Sweep, load_sweep, parse_spec, parse_sweep, to_yaml
from tests.pictures import tiny_spec


def sweep_of(text: str = "", *, probe: bool = True, **base: object) -> Sweep:
    spec = parse_spec(tiny_spec(Path("x"), probe=Path("y") if probe else None, **base))
    return parse_sweep(f"name: s\nbase: base.yaml\n{text}", spec)


def mistakes(text: str, **arguments: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        sweep_of(text, **arguments)  # type: ignore[arg-type]
    return [str(each) for each in caught.value.mistakes]


def test_by_default_recos_two_weights_and_three_temperatures_are_varied() -> None:
    sweep = sweep_of()
    assert {path: (dimension.low, dimension.high) for path, dimension in sweep.space.items()} == {
        "method.global_relation.weight": (0.25, 4.0),
        "method.local_relation.weight": (0.25, 4.0),
        "method.temperature": (0.05, 0.5),
        "method.global_relation.student_temperature": (0.05, 0.3),
        "method.global_relation.teacher_temperature": (0.02, 0.1),
    }
    assert sweep.metric == "valid/knn"
    assert sweep_of(probe=False).metric == "train/rank_me"


def test_a_trial_never_reads_the_test_set_and_registers_nothing() -> None:
    sweep = sweep_of(
        "budget: {epochs: 8}", data__probe__test="z", register="{model: m}", train__epochs=40, train__warmup_epochs=10
    )
    trial = sweep.trial({"method.temperature": 0.3}, seed=2)
    assert trial.data.probe is not None
    assert trial.data.probe.test is None
    assert trial.register is None
    assert (trial.train.epochs, trial.train.warmup_epochs, trial.train.seed) == (8, 2, 2)
    assert trial.method.temperature == 0.3
    full = sweep.full({"method.temperature": 0.3})
    assert (full.train.epochs, full.method.temperature, full.register is not None) == (40, 0.3, True)


@pytest.mark.parametrize(
    ("text", "rungs", "judged"),
    [
        ("budget: {epochs: 27}\nscheduler: {grace_epochs: 1}", (1, 3, 9, 27), 1),
        ("budget: {epochs: 8}\nscheduler: {grace_epochs: 2, reduction: 2}", (2, 4, 8), 2),
        ("budget: {epochs: 10}\nscheduler: {grace_epochs: 4}", (4, 10), 1),
        ("budget: {epochs: 6}\nscheduler: {name: median, grace_epochs: 2}", (2, 4, 6), 2),
        ("budget: {epochs: 6}\nscheduler: {name: none}", (6,), 1),
    ],
)
def test_rungs(text: str, rungs: tuple[int, ...], judged: int) -> None:
    sweep = sweep_of(text)
    assert (sweep.rungs, sweep.judged_every) == (rungs, judged)


def test_every_mistake_of_a_space_is_told_with_its_line() -> None:
    told = mistakes(
        """space:
  method.temprature: {loguniform: [0.1, 0.2]}
  method.groups: {uniform: [1, 8]}
  method.momentum: {uniform: [0.9, 1.5]}
  train.epochs: {choice: [1, 2]}
  method: {choice: [1, 2]}
objective: {metric: train/loss}
"""
    )
    assert [each.partition(": ")[0] for each in told] == [f"line {line}" for line in (4, 5, 6, 7, 8, 9)]
    assert "did you mean method.temperature?" in told[0]
    assert "a whole number" in told[1]
    assert "1.5" in told[2]
    assert "cannot be varied" in told[3]
    assert "is a section" in told[4]
    assert "depends on the temperatures and weights" in told[5]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("space: {}", "is empty"),
        ("space: {method.temperature: [1, 2]}", "must be one of {loguniform: [low, high]}"),
        ("space: {method.temperature: {loguniform: [0.5, 0.1]}}", "0.5 is not below 0.1"),
        ("space: {method.temperature: {loguniform: [0, 0.1]}}", "must be above 0"),
        ("space: {method.temperature: {lognormal: [0.1, 1]}}", "did you mean `loguniform`?"),
        ("space: {method.temperature: {choice: []}}", "at least one value"),
        ("space: {method.temperature: {grid: [0.1, 0.2]}}", "write choice, or search by grid"),
        ("search: {name: grid}", "has no end to list"),
        ("objective: {metric: test/knn}", "the test set is read once"),
        ("objective: {metric: valid/nn}", "did you mean valid/knn?"),
        ("budget: {gpu_hours: 3}", "limit budget.wall_time instead"),
        ("scheduler: {grace_epochs: 9}", "9 is more than the 4 epochs of a trial"),
        ("trails: 3", "did you mean `trials`?"),
    ],
)
def test_a_mistake_says_what_to_change(text: str, word: str) -> None:
    (told,) = mistakes(text) if text != "search: {name: grid}" else mistakes(text)[:1]
    assert word in told


def test_a_space_in_which_the_teacher_is_never_sharper_is_refused() -> None:
    (told,) = mistakes(
        """space:
  method.global_relation.student_temperature: {uniform: [0.05, 0.1]}
  method.global_relation.teacher_temperature: {uniform: [0.1, 0.2]}
"""
    )
    assert "holds no combination that makes a run" in told
    assert "the teacher's distribution must be the sharper one" in told


def test_without_labels_knn_cannot_be_the_objective() -> None:
    (told,) = mistakes("objective: {metric: valid/knn}", probe=False)
    assert "needs labelled pictures" in told


def test_a_sweep_survives_being_written(tmp_path: Path) -> None:
    text = "space: {method.temperature: {loguniform: [0.1, 0.4]}, train.global_batch_size: {choice: [32, 64]}}"
    sweep = sweep_of(text)
    (tmp_path / "base.yaml").write_text(to_yaml(sweep.base))
    (tmp_path / "sweep.yaml").write_text(to_yaml(sweep.spec))
    assert load_sweep(tmp_path / "sweep.yaml") == sweep
    assert load_sweep(tmp_path / "sweep.yaml", ["trials=7"]).trials == 7


def test_a_base_with_mistakes_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: bse.yaml\n")
    (tmp_path / "base.yaml").write_text("name: x\n")
    with pytest.raises(SpecError, match=r"bse.yaml.*\n.*no such file; did you mean .*base.yaml"):
        load_sweep(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "examples" / "sweeps").glob("*.yaml")), ids=lambda path: path.name
)
def test_examples_load_with_their_base(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.point_of_base() is not None
    assert sweep.trial({}).data.probe is not None
