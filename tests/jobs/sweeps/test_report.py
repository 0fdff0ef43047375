"""What a sweep gave, in rows and in pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.spec import Sweep, parse_spec, parse_sweep
from jobs.sweeps.figures import importances
from jobs.sweeps.ledger import Trial
from jobs.sweeps.report import as_rows, write_report
from tests.pictures import tiny_spec

SPACE = """space:
  method.temperature: {loguniform: [0.05, 0.5]}
  method.momentum: {uniform: [0.9, 0.99]}
  method.local_relation.mix: {choice: [cutmix, mixup]}
"""


def sweep_of(mode: str = "max") -> Sweep:
    spec = parse_spec(tiny_spec(Path("x"), probe=Path("y"), train__epochs=9))
    text = f"name: s\nbase: b\n{SPACE}objective: {{mode: {mode}}}\nscheduler: {{grace_epochs: 1}}"
    return parse_sweep(text, spec)


def some_trials() -> list[Trial]:
    trials = []
    for number in range(8):
        values = {
            "method.temperature": 0.05 * 1.3**number,
            "method.momentum": 0.9 + 0.01 * (number * 5 % 8),
            "method.local_relation.mix": ("cutmix", "mixup")[number % 2],
        }
        trial = Trial(number, values, began=0.0, points={1: 10.0 + number, 3: 12.0 + number}, ended=1.0)
        trial.objective, trial.status = 12.0 + number, "stopped early"
        if number % 2:
            trial.points[9] = trial.objective = 20.0 + number
            trial.status, trial.seeds = "finished", [20.0 + number]
        trials.append(trial)
    failed = Trial(8, trials[0].values, began=0.0, status="failed", reason="<no> memory", ended=2.0)
    return [*trials, failed]


def test_rows_have_the_best_first_and_failures_last() -> None:
    rows = as_rows(sweep_of(), some_trials())
    assert [row["trial"] for row in rows] == [7, 5, 3, 1, 6, 4, 2, 0, 8]
    assert rows[0]["objective"] == 27.0
    assert rows[0]["method.local_relation.mix"] == "mixup"
    assert as_rows(sweep_of("min"), some_trials())[0]["trial"] == 1


def test_the_report_stands_alone_and_shows_every_trial(tmp_path: Path) -> None:
    page = write_report(sweep_of(), some_trials(), tmp_path, sweep_id="a<b").read_text()
    assert "Trial 7 is the best: 27 after 9 epochs" in page
    assert "<td>method.momentum<td>0.93<td>0.9<" in page  # beside the base's own
    assert "&lt;no&gt; memory" in page
    assert "<no>" not in page
    assert "a&lt;b" in page
    assert page.partition("All trials")[2].count("<tr") == 1 + 9
    assert page.count("data:image/png;base64,") == 4
    for name in ("parallel-coordinates", "importance", "objective-by-option", "rungs"):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert (picture < 200).mean() > 0.005  # something is drawn


UNDER_WAY = Trial(0, some_trials()[0].values, began=0.0, points={2: 5.0}, objective=5.0)


@pytest.mark.parametrize("trials", [[], some_trials()[:1], some_trials()[8:], [UNDER_WAY]])
def test_a_report_can_be_made_at_any_time(tmp_path: Path, trials: list[Trial]) -> None:
    page = write_report(sweep_of(), trials, tmp_path, sweep_id="s").read_text()
    assert "No trial has come to its end" in page


def test_the_option_that_decides_is_found_to_matter() -> None:
    sweep, trials = sweep_of(), some_trials()[:8]
    for trial in trials:
        trial.objective = float(np.log(trial.values["method.temperature"]))
    found = importances(sweep, trials)
    assert max(found, key=lambda name: found[name]) == "method.temperature"
    assert sum(found.values()) == pytest.approx(1.0)
    for trial in trials:
        trial.objective = 1.0
    assert importances(sweep, trials) == {}
