"""What a trial hears of its run, from the run's folder alone: every judgement once, whoever was killed in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import RecoError
from jobs.run_folder import Record, RunFolder
from jobs.spec import Sweep, parse_spec, parse_sweep
from jobs.sweeps.trial import TrialContext, _judged
from tests.pictures import tiny_spec

STEPS = 8  # of an epoch


@pytest.fixture
def context() -> TrialContext:
    base = parse_spec(tiny_spec(Path("x"), probe=Path("y"), train__epochs=4))
    sweep: Sweep = parse_sweep("name: s\nbase: b\nscheduler: {grace_epochs: 1}", base)
    return TrialContext("u", "s", sweep, tracking="t", parent="p", dataset_hash="d")


def records(*epochs: int) -> list[Record]:
    return [
        {"step": STEPS * epoch, "pictures": 0, "metrics": {"valid/knn": 10.0 * epoch, "train/loss": 1.0}}
        for epoch in epochs
    ]


def judged(folder: RunFolder, context: TrialContext, looks: list[bool]) -> Iterator[tuple[int, float]]:
    return _judged(context.sweep.trial({}), folder, context, over=lambda: looks.pop(0))


def test_a_run_that_was_complete_before_anybody_told_of_it_is_told_whole(tmp_path: Path, context: TrialContext) -> None:
    folder = RunFolder(str(tmp_path), "r")
    folder.write_records(records(1, 2, 3, 4), step=4 * STEPS)
    folder.write_result({"valid/knn": 40.0})
    assert list(judged(folder, context, [True])) == [(1, 10.0), (2, 20.0), (3, 30.0)]


def test_what_an_attempt_measured_before_it_died_is_told_when_the_next_goes_on_behind_it(
    tmp_path: Path, context: TrialContext
) -> None:
    folder = RunFolder(str(tmp_path), "r")
    folder.write_records(records(1, 2), step=2 * STEPS + 3)
    folder.write_records(records(3), step=3 * STEPS + 3)  # of a checkpoint that the next attempt did not find whole
    progress = {"phase": "training", "step": 2 * STEPS + 4, "total_steps": 4 * STEPS, "resumed_from": 2 * STEPS + 3}
    folder.write_progress({**progress, "probes": []})  # type: ignore[typeddict-item]
    told = judged(folder, context, [False, False, True])
    assert [next(told), next(told)] == [(1, 10.0), (2, 20.0)]
    again = {"step": 3 * STEPS, "metrics": {"valid/knn": 31.0}}
    folder.write_progress({**progress, "probes": [again]})  # type: ignore[typeddict-item]
    assert list(told) == [(3, 31.0)]


def test_an_objective_that_is_no_number_ends_the_trial(tmp_path: Path, context: TrialContext) -> None:
    folder = RunFolder(str(tmp_path), "r")
    folder.write_progress(
        {
            "phase": "training",
            "step": STEPS,
            "total_steps": 4 * STEPS,
            "resumed_from": 0,
            "probes": [{"step": STEPS, "metrics": {"valid/knn": float("nan")}}],
        }
    )
    with pytest.raises(RecoError, match="is nan"):
        next(judged(folder, context, [False]))
    assert folder.stop_requested()
