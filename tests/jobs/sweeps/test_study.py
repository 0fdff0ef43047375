"""The mind of a sweep without a cluster: what it decides, and that it is found again from its ledger alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.checkpoints.fence import Fence, FencedError
from jobs.spec import Sweep, parse_spec, parse_sweep
from jobs.storage import open_storage
from jobs.sweeps.ledger import Ledger, Trial, best_of, ranked, trials_of
from jobs.sweeps.study import Study
from tests.pictures import tiny_spec


def sweep_of(text: str = "", **base: object) -> Sweep:
    spec = parse_spec(tiny_spec(Path("x"), probe=Path("y"), train__epochs=9, **base))
    return parse_sweep(f"name: s\nbase: base.yaml\n{text}", spec)


def study_in(folder: Path, sweep: Sweep) -> Study:
    storage = open_storage(str(folder))
    return Study(sweep, Ledger(storage, Fence.take(storage)), name="s")


def worth(values: dict[str, float], epoch: int) -> float:
    """Best at a temperature of 0.2, and better with every epoch."""
    return 50 - 100 * abs(values["method.temperature"] - 0.2) + epoch


def carry_out(study: Study, sweep: Sweep, *, cut_after: int | None = None) -> int:
    """Play a sweep, one trial at a time; `cut_after` so many decisions everything stops. Returns the decisions."""
    decisions = 0
    while (trial := study.next()) is not None:
        for epoch in range(1, sweep.epochs):
            decisions += 1
            if decisions == cut_after:
                return decisions
            if not study.report(trial.number, epoch, worth(trial.values, epoch)):
                study.end(trial.number)
                break
        else:
            study.end(trial.number, seeds=[worth(trial.values, sweep.epochs)])
    return decisions


def content(trials: list[Trial]) -> list[tuple[object, ...]]:
    return [(each.number, each.values, each.points, each.status, each.objective) for each in trials]


@pytest.mark.parametrize("search", ["tpe", "random"])
@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_study_cut_off_anywhere_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, search: str, scheduler: str
) -> None:
    sweep = sweep_of(f"trials: 12\nsearch: {{name: {search}}}\nscheduler: {{name: {scheduler}, grace_epochs: 1}}")
    undisturbed = study_in(tmp_path / "a", sweep)
    decisions = carry_out(undisturbed, sweep)
    for place, cut in enumerate((2, decisions // 3, decisions - 1)):
        folder = tmp_path / f"b{place}"
        carry_out(study_in(folder, sweep), sweep, cut_after=cut)
        again = study_in(folder, sweep)
        carry_out(again, sweep)
        assert content(again.trials) == content(undisturbed.trials)


def test_asha_stops_the_worse_ones_early_and_the_best_is_near_the_truth(tmp_path: Path) -> None:
    sweep = sweep_of("trials: 30\nscheduler: {grace_epochs: 1}")
    study = study_in(tmp_path, sweep)
    carry_out(study, sweep)
    early = [trial for trial in study.trials if trial.status == "stopped early"]
    assert len(early) >= 10
    assert all(trial.epoch in sweep.rungs for trial in early)
    best = best_of(study.trials, mode="max")
    assert best is not None
    assert best.values["method.temperature"] == pytest.approx(0.2, abs=0.05)


def test_the_base_comes_first_and_every_configuration_makes_a_run(tmp_path: Path) -> None:
    sweep = sweep_of("trials: 25\nscheduler: {name: none}")
    study = study_in(tmp_path, sweep)
    carry_out(study, sweep)
    assert study.trials[0].values == sweep.point_of_base()
    for trial in study.trials:
        relation = sweep.trial(trial.values).method.global_relation
        assert relation.teacher_temperature < relation.student_temperature


def test_a_grid_is_every_combination_that_makes_a_run_once(tmp_path: Path) -> None:
    space = """
space:
  method.global_relation.student_temperature: {grid: [0.05, 0.1]}
  method.global_relation.teacher_temperature: {grid: [0.04, 0.07]}
  method.temperature: {quniform: [0.1, 0.3, 0.1]}
search: {name: grid}
scheduler: {name: none}
"""
    sweep = sweep_of(space)
    study = study_in(tmp_path, sweep)
    carry_out(study, sweep)
    tried = {tuple(round(value, 6) for value in trial.values.values()) for trial in study.trials}
    pairs = {(0.05, 0.04), (0.1, 0.04), (0.1, 0.07)}  # 0.05 with 0.07 breaks a rule
    assert tried == {(*pair, temperature) for pair in pairs for temperature in (0.1, 0.2, 0.3)}
    assert len(study.trials) == sweep.trials == 9


def test_a_small_space_ends_a_sweep_when_it_is_used_up(tmp_path: Path) -> None:
    sweep = sweep_of("trials: 10\nspace: {method.temperature: {choice: [0.1, 0.2, 0.3]}}\nscheduler: {name: none}")
    study = study_in(tmp_path, sweep)
    carry_out(study, sweep)
    assert sorted(trial.values["method.temperature"] for trial in study.trials) == [0.1, 0.2, 0.3]


def test_a_ledger_of_another_version_keeps_its_configurations(tmp_path: Path) -> None:
    sweep = sweep_of("trials: 3\nscheduler: {name: none}")
    storage = open_storage(str(tmp_path))
    ledger = Ledger(storage, Fence.take(storage))
    values = {path: 0.2 if "temp" in path else 1.0 for path in sweep.space} | {
        "method.global_relation.teacher_temperature": 0.03
    }
    ledger.append({"event": "trial", "trial": 0, "values": values})
    ledger.append({"event": "end", "trial": 0, "status": "finished", "objective": 7.0, "epoch": 9, "seeds": [7.0]})
    study = study_in(tmp_path, sweep)
    carry_out(study, sweep)
    assert study.trials[0].values == values
    assert len(study.trials) == 3


def test_a_driver_that_was_replaced_cannot_write(tmp_path: Path) -> None:
    sweep = sweep_of("trials: 3")
    old = study_in(tmp_path, sweep)
    assert old.next() is not None
    new = study_in(tmp_path, sweep)
    with pytest.raises(FencedError):
        old.report(0, 1, 5.0)
    assert new.report(0, 1, 5.0)
    assert [trial.points for trial in trials_of(Ledger(open_storage(str(tmp_path))).events())] == [{1: 5.0}]


def test_the_mean_of_the_seeds_counts_and_failures_come_last(tmp_path: Path) -> None:
    sweep = sweep_of("trials: 3\nseeds: 2\nscheduler: {name: none}")
    study = study_in(tmp_path, sweep)
    for number in range(3):
        trial = study.next()
        assert trial is not None
        if number == 1:
            study.end(number, failure="no luck")
        else:
            study.end(number, seeds=[10.0 + number, 20.0 + number])
    assert [trial.objective for trial in study.trials] == [15.0, None, 17.0]
    assert [trial.number for trial in ranked(study.trials, mode="max")] == [2, 0, 1]
    assert [trial.number for trial in ranked(study.trials, mode="min")] == [0, 2, 1]


def test_a_budget_that_is_used_up_is_named(tmp_path: Path) -> None:
    study = study_in(tmp_path, sweep_of("budget: {wall_time: 20m}"))
    assert study.over_budget(1199.0, 0.0) is None
    assert study.over_budget(1200.0, 0.0) == "budget.wall_time 20m is used up"
