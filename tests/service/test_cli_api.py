"""The same commands through an API: sweeps of the service, and what happens when the API goes away."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.checkpoints.fence import Fence
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec, parse_sweep
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Ledger
from service.cli.planning import sweep_of
from service.control.control import Control, this_user
from service.runs.logs import RunLog
from service.runs.retry import Cause
from service.runs.states import Signal, State
from tests.jobs.checkpoints.made import save
from tests.pictures import tiny_spec
from tests.service.client.live import Api, serving
from tests.service.stored import PROGRESS, RECO, moved, reco, submitted
from tests.service.stored import control as control

SWEEP = "name: find\nbase: base.yaml\nspace: {method.temperature: {uniform: [0.05, 0.5]}}\ntrials: 3\n"


@pytest.fixture
def api(control: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """An API that the commands talk to, over a store that no leader works on."""
    with serving(control) as api:
        monkeypatch.setenv("RECO_API", api.url)
        monkeypatch.setenv("RECO_TOKEN", api.token(owner="ann"))
        # What is on this machine is not looked at.
        monkeypatch.setenv("RECO_HOME", "/nowhere/at/all")
        yield api


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A sweep's spec beside its base."""
    base = tiny_spec(tmp_path / "train", probe=tmp_path / "probe", train__epochs=9)
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


@pytest.mark.usefixtures("api")
def test_a_run_is_planned_submitted_listed_and_stopped(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(tiny_spec(tmp_path / "train"))
    assert "Run mine" in reco("pretrain", str(path), "--run-id", "mine", "--dry-run").stdout
    assert reco("runs", "list", "-q").stdout == ""
    assert reco("pretrain", str(path), "--run-id", "mine", "-d").stdout == "mine\n"
    assert control.store.get("mine").owner == "ann"
    assert reco("runs", "list", "-q", "--mine").stdout == "mine\n"
    assert reco("top").stdout.startswith("1 queued · http://127.0.0.1:")
    assert "Run mine: it was stopped" in reco("runs", "stop", "mine").stdout
    assert control.store.get("mine").state is State.CANCELLED
    assert reco("pretrain", str(path), "--run-id", "mine", "-d").stdout == "mine\n"
    assert control.store.get("mine").state is State.QUEUED


def test_a_sweep_is_carried_out_by_the_service(control: Control, api: Api, spec: Path) -> None:
    assert reco("sweep", "run", str(spec), "--id", "find", "-d", "--then", "full").stdout == "find\n"
    run = control.store.get("find")
    assert (run.kind, run.state, run.lineage) == ("sweep", State.QUEUED, {"then_full": True})
    assert "queued · ann submitted it." in reco("sweep", "show", "find").stdout
    assert reco("runs", "list", "-q", "--kind", "sweep").stdout == "find\n"

    folder = SweepFolder(run.storage, "find")
    folder.claim(parse_sweep(SWEEP, parse_spec((spec.parent / "base.yaml").read_text())))
    ledger = Ledger(folder.storage, Fence.take(folder.storage))
    for number in range(3):
        ledger.append({"event": "trial", "trial": number, "values": {"method.temperature": (1 + number) / 10}})
    ledger.append({"event": "report", "trial": 1, "epoch": 1, "objective": 30.0, "goes_on": True})
    ledger.append({"event": "end", "trial": 1, "status": "finished", "objective": 40.0, "epoch": 3, "seeds": [40.0]})
    ledger.append({"event": "end", "trial": 2, "status": "failed", "objective": None, "reason": "no luck"})
    shown = reco("sweep", "show", "find").stdout
    assert "2 of 3 trials done · best 40.00 (trial 1) · queued" in shown
    assert "failed: no luck" in shown
    board = json.loads(reco("sweep", "show", "find", "--json").stdout)
    assert (board["status"], [trial["number"] for trial in board["trials"]]) == ("queued", [1, 0, 2])
    assert parse_spec(reco("sweep", "best", "find").stdout).method.temperature == 0.2

    stop = threading.Timer(0.5, control.service(this_user()).runs.stop, ["find"])
    stop.start()
    followed = reco("sweep", "show", "find", "--follow", code=130)
    stop.join()
    assert "2 of 3 trials done · best 40.00 (trial 1) · cancelled" in followed.stdout
    assert "sweep find was stopped; it goes on with: reco sweep resume find" in followed.stderr
    assert "it was stopped" in reco("sweep", "stop", "find").stdout
    assert not folder.stop_requested()  # the service asks it, once its job runs
    assert "is told when it is submitted" in reco("sweep", "resume", "find", "--then", "full", code=2).stderr


@pytest.mark.usefixtures("control")
def test_a_sweep_of_the_service_on_this_machine_is_found_before_it_has_begun(control: Control, spec: Path) -> None:
    submission = sweep_of(spec, ["trials=2"], run_id="here", project="default", then_full=False)
    control.service(this_user()).runs.submit(submission)
    assert "queued" in reco("sweep", "show", "here").stdout
    assert "it was stopped" in reco("sweep", "stop", "here").stdout


@pytest.mark.usefixtures("api")
def test_who_is_attached_to_a_run_that_fails_hears_why_and_its_last_words(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(tiny_spec(tmp_path / "train"))
    reco("pretrain", str(path), "--run-id", "bad", "-d")
    moved(control, "bad", Signal.BEGIN, Signal.RUNNING)
    log = RunLog(RunFolder(control.settings.storage, "bad").storage, 1)
    log.append(0, b"".join(b"line %d\n" % number for number in range(40)))
    log.complete()
    control.store.save_progress("bad", {**PROGRESS, "plan": "120 steps"})
    fail = threading.Timer(1.0, moved, [control, "bad", Signal.FAILED], {"cause": Cause.NAN, "words": "It diverged."})
    fail.start()
    ran = reco("pretrain", str(path), "--run-id", "bad", code=1)
    fail.join()
    assert "run bad is running already: attached to it" in ran.stderr
    assert "training · step 30/120" in ran.stderr
    assert "failed: It diverged." in ran.stderr
    lines = ran.stderr.splitlines()
    assert [line.strip() for line in lines if "line " in line] == [f"line {number}" for number in range(25, 40)]
    assert lines[-2:] == [
        "error: run bad failed: It diverged.",
        "  → `reco runs events bad` and `reco runs logs bad` say more.",
    ]


@pytest.mark.usefixtures("api")
def test_a_fork_begins_with_the_weights_of_another(control: Control) -> None:
    run = submitted(control, "old")
    assert "has no whole checkpoint" in reco("runs", "fork", "old", "-d", code=2).stderr
    folder = RunFolder(run.storage, "old")
    folder.claim(parse_spec(run_spec := control.store.get("old").spec))
    save(folder, {"step": 4}, step=4, keep=9)
    assert reco("runs", "fork", "old", "--run-id", "child", "--set", "optimizer.lr=0.01", "-d").stdout == "child\n"
    child = control.store.get("child")
    assert child.lineage["forked_from"] == "old"
    assert "lr: 0.01" in child.spec
    assert "lr: 0.01" not in run_spec


def test_a_token_that_is_not_good_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECO_TOKEN", "reco_nonsense")
    assert "RECO_TOKEN" in reco("runs", "list", code=2).stderr


def test_a_log_is_whole_though_the_api_was_away_in_between(control: Control, api: Api) -> None:
    run = submitted(control, "long")
    moved(control, "long", Signal.BEGIN, Signal.RUNNING)
    log = RunLog(SweepFolder(run.storage, "long").storage, 1)
    log.append(0, b"line 0\n")
    reader = subprocess.Popen(
        [*RECO, "runs", "logs", "long", "-f"], env=dict(os.environ), stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    ended = threading.Timer(60.0, reader.kill)
    ended.start()
    try:
        assert reader.stdout.readline() == "line 0\n"
        api.stop()
        for number in range(1, 5):
            log.append(log.end(), f"line {number}\n".encode())
        api.start()
        assert [reader.stdout.readline() for _ in range(4)] == [f"line {number}\n" for number in range(1, 5)]
        moved(control, "long", Signal.SUCCEEDED)
        log.append(log.end(), b"the end\n")
        log.complete()
        assert reader.stdout.read() == "the end\n"
        assert reader.wait() == 0
    finally:
        ended.cancel()
        reader.kill()
