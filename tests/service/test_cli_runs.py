"""`reco runs` over a real store: what is listed and shown, logs and events, checkpoints, deleting."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from jobs.errors import RecoError
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from service.control.control import Control
from service.runs.logs import RunLog
from service.runs.retry import Cause
from service.runs.states import Condition, Signal, State
from tests.jobs.checkpoints.made import save
from tests.pictures import tiny_spec
from tests.service.stored import PROGRESS, RECO, moved, reco, submitted
from tests.service.stored import control as control
from tests.service.stored import environment as environment
from tests.service.stored import three as three
from tests.service.terminal import at_terminal


@pytest.mark.usefixtures("three")
def test_runs_are_listed_from_the_newest_and_filtered() -> None:
    def ids(*words: str) -> list[str]:
        return reco("runs", "list", "-q", *words).stdout.split()

    assert ids() == ["new", "now", "old"]
    assert ids("--limit", "2") == ["new", "now"]
    assert ids("--state", "failed", "--state", "running") == ["now", "old"]
    assert ids("--name", "spar*") == ["new"]
    assert ids("--project", "birds") == ["new"]
    assert ids("--kind", "sweep") == []
    assert ids("--mine", "--all") == ["new", "now", "old"]
    table = reco("runs", "list").stdout
    line = next(line for line in table.splitlines() if line.startswith(" now"))
    assert line.split()[:7] == ["now", "running", "30/120", "(25%)", "1:06:40", "61.2", "%"]
    found = json.loads(reco("runs", "list", "--json").stdout)
    assert [(run["id"], run["state"]) for run in found] == [("new", "queued"), ("now", "running"), ("old", "failed")]


def test_all_lists_more_than_a_page(control: Control) -> None:
    for number in range(203):
        submitted(control, f"run-{number}")
    assert len(reco("runs", "list", "-q", "--all").stdout.split()) == 203
    assert reco("runs", "list", "-q").stdout.split() == [f"run-{number}" for number in range(202, 172, -1)]
    assert "the newest 30 of 203" in reco("runs", "list").stderr
    assert "the newest" not in reco("runs", "list", "--all").stderr


@pytest.mark.usefixtures("control")
def test_without_runs_it_says_how_to_start_one() -> None:
    assert "`reco pretrain SPEC` starts one" in reco("runs", "list").stdout
    assert "There is no such run" in reco("runs", "list", "--mine").stdout
    assert reco("runs", "list", "--json").stdout == "[]\n"
    assert "there is no run yet" in reco("runs", "show", code=2).stderr


@pytest.mark.usefixtures("three")
def test_show_tells_a_run_at_work(control: Control) -> None:
    control.store.set_condition("now", Condition.STALLED, holds=True, words="It has been there for 30 minutes.")
    shown = reco("runs", "show", "now").stdout
    assert shown.startswith("now  running\n")
    assert "! stalled since" in shown
    assert "training · step 30/120 · epoch 1.0/4 · 1,234 pictures/s · data wait 3.1% · 2.5 GB · 1:06:40 left" in shown
    assert "loss 3.250 k-NN 61.2 %" in shown
    assert "reco runs logs now -f" in shown
    assert "now-a1" in shown
    assert json.loads(reco("runs", "show", "now", "--json").stdout)["progress"] == PROGRESS


@pytest.mark.usefixtures("three")
def test_show_tells_why_a_run_failed_and_what_ended_each_attempt() -> None:
    shown = reco("runs", "show", "old").stdout
    assert shown.splitlines()[:2] == ["old  failed", "  Training diverged."]
    rows = [line.split() for line in shown.splitlines() if line.startswith((" 1 ", " 2 "))]
    assert [(row[1], row[2]) for row in rows] == [("failed", "node_lost"), ("failed", "nan")]
    assert "reco runs resume old" in shown
    assert "training ·" not in shown


@pytest.mark.usefixtures("three")
def test_show_takes_the_newest_run_where_none_is_named_and_says_so() -> None:
    ran = reco("runs", "show")
    assert "the newest run: new" in ran.stderr
    assert ran.stdout.startswith("new  queued")


def test_show_tells_what_a_run_gave(control: Control) -> None:
    run = submitted(control, "done")
    moved(control, "done", Signal.BEGIN, Signal.RUNNING, Signal.SUCCEEDED)
    results = {"k": 5.0, "valid/knn": 40.0, "valid/knn_untrained": 45.0, "valid/knn_raw_pixels": 30.0}
    outcome = {"status": "succeeded", "exit_code": 0, "results": results, "model": "m/3", "tracking_url": "http://x/1"}
    RunFolder(run.storage, "done").write_outcome(outcome)  # type: ignore[arg-type]
    shown = reco("runs", "show", "done").stdout
    assert "k-NN (k = 5) on valid" in shown
    assert "! the encoder is no better than an untrained one" in shown
    assert "raw pixels are as good" not in shown
    assert "✓ registered m/3" in shown
    assert "✓ tracked at http://x/1" in shown


@pytest.mark.usefixtures("three")
def test_events_tell_what_a_run_became_and_why() -> None:
    lines = reco("runs", "events", "old").stdout.splitlines()
    said = [line.split("  ", 1)[1].strip().split(" ", 1)[1] for line in lines]
    assert [line.split("  ")[-1] for line in said] == [
        "queued: ann submitted it.",
        "starting: A host was lost.",
        "running: A host was lost.",
        "recovering: A host was lost.",
        "starting: Training diverged.",
        "running: Training diverged.",
        "failed: Training diverged.",
    ]
    found = json.loads(reco("runs", "events", "old", "--json").stdout)
    assert [event["number"] for event in found] == list(range(1, 8))
    assert reco("runs", "events", "old", "-f").stdout.splitlines() == lines  # it has ended: nothing is waited for


def with_log(control: Control, run: str, attempt: int, *parts: str) -> None:
    log = RunLog(RunFolder(control.store.get(run).storage, run).storage, attempt)
    for part in parts:
        log.append(log.end(), part.encode())
    log.complete()


@pytest.mark.usefixtures("three")
def test_logs_are_printed_as_they_are_one_attempt_or_all(control: Control) -> None:
    with_log(control, "old", 1, "first [red]line\n", "second\n")
    with_log(control, "old", 2, "third\n")
    assert reco("runs", "logs", "old").stdout == "third\n"
    assert reco("runs", "logs", "old", "--attempt", "1").stdout == "first [red]line\nsecond\n"
    followed = reco("runs", "logs", "old", "-f", "--attempt", "1")
    assert followed.stdout == "first [red]line\nsecond\n"
    assert reco("runs", "logs", "old", "-f", code=1).stdout == "third\n"
    assert "has no attempt 3" in reco("runs", "logs", "old", "--attempt", "3", code=2).stderr
    waits = reco("runs", "logs", "new")
    assert (waits.stdout, "it is queued" in waits.stderr) == ("", True)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "nobody"),
        ("logs", "nobody"),
        ("logs", "nobody", "-f"),
        ("events", "nobody"),
        ("stop", "nobody"),
        ("resume", "nobody"),
        ("fork", "nobody"),
        ("delete", "nobody", "-y"),
        ("checkpoints", "nobody"),
        ("checkpoints", "nobody", "--storage", "/nowhere"),
    ],
)
@pytest.mark.usefixtures("control")
def test_a_run_that_is_not_there(words: tuple[str, ...]) -> None:
    ran = reco("runs", *words, code=2)
    assert "there is no run nobody" in ran.stderr
    assert "→" in ran.stderr


@pytest.fixture
def folder(control: Control) -> RunFolder:
    run = submitted(control, "a-run")
    folder = RunFolder(run.storage, "a-run")
    folder.claim(parse_spec(tiny_spec(Path("/nowhere"))))
    return folder


def test_checkpoints_with_step_size_and_state(folder: RunFolder) -> None:
    for step in (4, 8, 12, 16):
        save(folder, {"step": step}, step=step, keep=9)
    place = Path(folder.url) / "checkpoints"
    flipped = bytearray((place / "step-000000000008" / "state.pt").read_bytes())
    flipped[100] ^= 1
    (place / "step-000000000008" / "state.pt").write_bytes(flipped)
    (place / "step-000000000012" / "manifest.json").write_text("{")
    (place / "step-000000000016" / "manifest.json").unlink()

    def states(*words: str) -> dict[int, str]:
        shown = json.loads(reco("runs", "checkpoints", "a-run", "--json", *words).stdout)
        return {each["step"]: each["state"] for each in shown}

    assert states() == {16: "unfinished", 12: "damaged", 8: "whole", 4: "whole"}
    assert states("--storage", folder.parent) == states()
    assert states("--verify") == {16: "unfinished", 12: "damaged", 8: "damaged", 4: "whole"}
    assert "unfinished" in reco("runs", "checkpoints", "a-run").stdout


def test_a_run_is_deleted_once_it_has_ended_and_somebody_said_so(control: Control, folder: RunFolder) -> None:
    save(folder, {"step": 4}, step=4, keep=9)
    assert "queued" in reco("runs", "delete", "a-run", "-y", code=2).stderr
    moved(control, "a-run", Signal.BEGIN, Signal.FAILED, cause=Cause.UNKNOWN)
    asked = reco("runs", "delete", "a-run", code=2)
    assert "a checkpoint (" in asked.stderr
    assert "--yes" in asked.stderr
    assert folder.storage.exists("spec.yaml")
    assert "Run a-run is deleted: 4 files" in reco("runs", "delete", "a-run", "--yes").stdout
    assert not any(folder.storage.list())
    assert reco("runs", "list", "-q").stdout == ""
    assert "was deleted" in reco("runs", "show", "a-run", code=2).stderr


@pytest.mark.parametrize(("key", "code", "gone"), [("\r", 1, False), ("n\r", 1, False), ("perhaps\ry\r", 0, True)])
def test_deleting_asks_at_a_terminal(
    control: Control, folder: RunFolder, environment: dict[str, str], key: str, code: int, gone: bool
) -> None:
    moved(control, "a-run", Signal.BEGIN, Signal.FAILED, cause=Cause.UNKNOWN)
    with at_terminal([*RECO, "runs", "delete", "a-run"], environment) as terminal:
        terminal.wait_for("Delete 0 checkpoints (0.0 MB), records and logs of run a-run? (N = no, y = yes)")
        terminal.press(key)
        assert terminal.wait() == code, terminal.shown
    assert folder.storage.exists("spec.yaml") is not gone


@pytest.mark.usefixtures("three")
def test_stop_of_a_run_that_has_ended_leaves_it_alone(control: Control) -> None:
    assert "not running: it has failed" in reco("runs", "stop", "old").stdout
    assert control.store.get("old").state is State.FAILED


@pytest.mark.usefixtures("three")
def test_a_change_that_makes_another_experiment_is_refused() -> None:
    ran = reco("runs", "resume", "old", "--set", "optimizer.lr=1.0", code=2)
    assert "another experiment" in ran.stderr
    assert "reco runs fork old" in ran.stderr
    assert "cannot be" in reco("runs", "fork", "old", "--run-id", "../x", code=2).stderr


def test_a_record_that_is_half_written_is_read_again(folder: RunFolder) -> None:
    record = Path(folder.url) / "progress.json"
    record.write_text('{"phase": "trai')

    def finish_writing() -> None:
        time.sleep(0.3)
        record.write_text('{"phase": "training", "step": 3}')

    thread = threading.Thread(target=finish_writing)
    thread.start()
    assert folder.progress() == {"phase": "training", "step": 3}
    thread.join()
    record.write_text("{")
    with pytest.raises(RecoError, match=r"progress\.json is damaged"):
        folder.progress()
