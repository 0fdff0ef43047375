"""A server that stays away says nothing of a trial: the sweep stops, and the trial is taken up another time."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.tune

from jobs.checkpoints.fence import Fence
from jobs.spec import parse_spec, parse_sweep
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Ledger
from jobs.sweeps.study import Study
from jobs.sweeps.trial import TrialContext, carry_out
from jobs.sweeps.tuning import Closing, _Hall
from tests.pictures import tiny_spec
from tests.s3 import free_port


def test_mlflow_that_does_not_answer_stops_the_sweep_and_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = parse_sweep("name: s\nbase: b", parse_spec(tiny_spec(Path("x"), probe=Path("y"))))
    folder = SweepFolder(str(tmp_path), "s")
    study = Study(sweep, Ledger(folder.storage, Fence.take(folder.storage)), name="s")
    closing = Closing()
    hall = _Hall(study, folder, closing)
    trial = hall.next()
    assert trial is not None
    # Ray Tune would carry these reports from the trial's process to the scheduler, which hands them on.
    monkeypatch.setattr(ray.tune, "report", lambda result: hall.heard(trial.number, result))
    nobody = f"http://127.0.0.1:{free_port()}"
    context = TrialContext(str(tmp_path), "s", sweep, tracking=nobody, parent="p", dataset_hash="d")
    carry_out({"trial": trial.number, "values": trial.values}, context)
    hall.ended(trial.number)

    assert closing.error is not None
    assert nobody in closing.error.message
    assert hall.next() is None
    again = Study(sweep, Ledger(folder.storage, Fence.take(folder.storage)), name="s")
    assert [each.status for each in again.trials] == ["running"]
    taken_up = again.next()
    assert taken_up is not None
    assert taken_up.values == trial.values
