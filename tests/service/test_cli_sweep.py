"""`reco sweep` on a sweep's folder, without a cluster."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.checkpoints.fence import Fence
from jobs.spec import parse_spec, parse_sweep
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Ledger
from service.cli.leaderboard import short_names
from service.cli.main import app
from service.control.control import Control
from service.runs.records import NewRun
from service.settings import Settings
from tests.pictures import tiny_spec

VALUES = {
    "method.global_relation.weight": 1.0,
    "method.local_relation.weight": 2.0,
    "method.temperature": 0.25,
    "method.global_relation.student_temperature": 0.1,
    "method.global_relation.teacher_temperature": 0.04,
}


def reco(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sweep", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def no_other_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECO_API", "RECO_STORAGE", "RECO_DATABASE", "RECO_BACKEND", "RECO_RAY_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "home"))


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """A sweep `old` of three trials: one finished, one stopped early, one failed."""
    base = parse_spec(tiny_spec(Path("x"), probe=Path("y"), train__epochs=9, register="{model: m}"))
    sweep = parse_sweep("name: old\nbase: b.yaml\ntrials: 3\nbudget: {epochs: 3}", base)
    folder = SweepFolder(str(tmp_path / "store"), "old")
    folder.claim(sweep)
    ledger = Ledger(folder.storage, Fence.take(folder.storage))
    for number in range(3):
        ledger.append({"event": "trial", "trial": number, "values": VALUES | {"method.temperature": (1 + number) / 10}})
    ledger.append({"event": "report", "trial": 0, "epoch": 1, "objective": 30.0, "goes_on": True})
    ledger.append({"event": "report", "trial": 1, "epoch": 1, "objective": 20.0, "goes_on": False})
    ledger.append({"event": "end", "trial": 0, "status": "finished", "objective": 40.0, "epoch": 3, "seeds": [40.0]})
    ledger.append({"event": "end", "trial": 1, "status": "stopped early", "objective": 20.0})
    ledger.append({"event": "end", "trial": 2, "status": "failed", "objective": None, "reason": "no luck"})
    folder.write_outcome({"status": "succeeded", "exit_code": 0, "tracking_url": "http://x"})
    return str(tmp_path / "store")


def test_show_tells_states_and_the_best(storage: str) -> None:
    code, printed, _ = reco("show", "old", "--storage", storage)
    assert code == 0
    assert "3 of 3 trials done · best 40.00 (trial 0)" in printed
    assert "failed: no luck" in printed
    assert "stopped early" in printed
    found = json.loads(reco("show", "old", "--storage", storage, "--json")[1])
    assert (found["status"], [row["trial"] for row in found["trials"]]) == ("succeeded", [0, 1, 2])


def test_the_run_that_trains_the_best_in_full_is_shown_while_it_is_under_way(storage: str) -> None:
    folder = SweepFolder(storage, "old")
    folder.full_run().write_progress({"phase": "training", "step": 4, "total_steps": 9, "epoch": 1.0, "epochs": 3})
    assert "old-full" not in reco("show", "old", "--storage", storage)[1]  # the sweep has ended
    folder.begin_attempt()
    shown = reco("show", "old", "--storage", storage)[1]
    assert "the best in full, run old-full: training · step 4/9 · epoch 1.0/3" in shown


def test_a_complete_sweep_is_resumed_only_for_more(storage: str) -> None:
    code, printed, said = reco("resume", "old", "--storage", storage)
    assert code == 0
    assert "all of its 3 trials are done" in printed
    assert "--then full" in said


def test_results_are_there_for_programs_and_for_people(storage: str, tmp_path: Path) -> None:
    rows = json.loads(reco("results", "old", "--storage", storage, "--json")[1])
    assert [row["objective"] for row in rows] == [40.0, 20.0, None]
    lines = list(csv.DictReader(io.StringIO(reco("results", "old", "--storage", storage, "--csv")[1])))
    assert [line["method.temperature"] for line in lines] == ["0.1", "0.2", "0.3"]
    report = tmp_path / "report.html"
    assert reco("results", "old", "--storage", storage, "--html", str(report))[0] == 0
    assert "Trial 0 is the best: 40" in report.read_text()


def test_the_best_is_a_spec_of_the_bases_length(storage: str) -> None:
    code, printed, _ = reco("best", "old", "--storage", storage)
    assert code == 0
    spec = parse_spec(printed)
    assert (spec.method.temperature, spec.train.epochs, spec.register is not None) == (0.1, 9, True)
    assert spec.method.local_relation.weight == 2.0


def test_a_sweep_that_has_ended_is_not_stopped(storage: str) -> None:
    code, printed, _ = reco("stop", "old", "--storage", storage)
    assert (code, "it has succeeded" in printed) == (0, True)
    assert not SweepFolder(storage, "old").stop_requested()


def test_an_unknown_sweep_says_where_it_was_looked_for(storage: str) -> None:
    code, _, said = reco("show", "new", "--storage", storage)
    assert code == 2
    assert "there is no sweep new" in said
    assert "--storage" in said


def test_another_search_cannot_take_over_an_id(storage: str, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(tiny_spec(Path("x"), probe=Path("y"), train__epochs=9))
    (tmp_path / "sweep.yaml").write_text("name: old\nbase: base.yaml\nbudget: {epochs: 3}\nsearch: {seed: 5}")
    code, _, said = reco("run", str(tmp_path / "sweep.yaml"), "--id", "old", "--storage", storage)
    assert code == 2
    assert "exists with another search" in said


def test_a_sweep_of_the_service_gets_no_second_driver(tmp_path: Path) -> None:
    base, sweep = tmp_path / "base.yaml", tmp_path / "sweep.yaml"
    base.write_text(tiny_spec(Path("x"), probe=Path("y"), train__epochs=9))
    sweep.write_text("name: search\nbase: base.yaml\nbudget: {epochs: 3}")
    with Control(Settings.from_environment()) as control:
        row = NewRun("mine", "search", sweep.read_text(), "abc", "ann", kind="sweep", storage=str(tmp_path / "runs"))
        control.store.create(row)
    code, _, said = reco("run", str(sweep), "--id", "mine", "-y")
    assert code == 2
    assert "which the service carries out" in said
    assert "`reco sweep resume mine`" in said
    assert not (tmp_path / "home" / "runs" / "mine").exists()


@pytest.mark.parametrize("verb", ["run", "preview"])
def test_all_mistakes_are_told_before_anything_starts(tmp_path: Path, verb: str) -> None:
    (tmp_path / "base.yaml").write_text(tiny_spec(Path("x"), probe=Path("y")))
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: base.yaml\nspace: {method.temprature: {uniform: [1, 2]}}\n")
    code, _, said = reco(verb, str(tmp_path / "sweep.yaml"), "--set", "objective.metric=train/loss")
    assert code == 2
    assert "2 mistakes" in said
    assert "did you mean method.temperature?" in said


def test_short_names_are_as_short_as_they_can_be() -> None:
    paths = ["method.global_relation.weight", "method.local_relation.weight", "method.temperature"]
    assert list(short_names(paths).values()) == ["global_relation.weight", "local_relation.weight", "temperature"]


def test_explain_tells_what_an_option_of_a_sweep_is_for() -> None:
    ended = CliRunner().invoke(app, ["sweep", "explain", "scheduler", "--json"])
    told = {each["path"]: each for each in json.loads(ended.stdout)}
    assert told["scheduler.reduction"]["default"] == 3.0
    assert "each rung" in told["scheduler.name"]["description"]
    unknown = CliRunner().invoke(app, ["sweep", "explain", "schedler"])
    assert unknown.exit_code == 2
