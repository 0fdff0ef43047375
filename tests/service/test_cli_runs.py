"""`reco stop` and `reco runs` on folders of runs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.errors import RecoError
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from service.cli.main import app
from tests.jobs.checkpoints.made import save
from tests.pictures import tiny_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RECO_STORAGE", str(tmp_path))
    folder = RunFolder(str(tmp_path), "a-run")
    folder.claim(parse_spec(tiny_spec(tmp_path)))
    return folder


def reco(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_checkpoints_with_step_size_and_state(folder: RunFolder, tmp_path: Path) -> None:
    for step in (4, 8, 12, 16):
        save(folder, {"step": step}, step=step, keep=9)
    place = tmp_path / "a-run" / "checkpoints"
    flipped = bytearray((place / "step-000000000008" / "state.pt").read_bytes())
    flipped[100] ^= 1
    (place / "step-000000000008" / "state.pt").write_bytes(flipped)
    (place / "step-000000000012" / "manifest.json").write_text("{")
    (place / "step-000000000016" / "manifest.json").unlink()

    def states(*words: str) -> dict[int, str]:
        shown = json.loads(reco("runs", "checkpoints", "a-run", "--json", *words).stdout)
        return {each["step"]: each["state"] for each in shown}

    assert states() == {16: "unfinished", 12: "damaged", 8: "whole", 4: "whole"}
    assert states("--verify") == {16: "unfinished", 12: "damaged", 8: "damaged", 4: "whole"}
    assert "unfinished" in reco("runs", "checkpoints", "a-run").stdout


def test_stop_waits_until_the_run_has_saved(folder: RunFolder) -> None:
    folder.write_progress({"phase": "training", "step": 7, "total_steps": 10, "epoch": 0.7, "epochs": 1, "metrics": {}})

    def run() -> None:
        while not folder.stop_requested():
            time.sleep(0.05)
        folder.write_outcome({"status": "stopped", "exit_code": 130})

    thread = threading.Thread(target=run)
    thread.start()
    ran = reco("stop", "a-run")
    thread.join()
    assert ran.exit_code == 0, ran.output
    assert "Run a-run has stopped" in ran.output


def test_stop_of_a_run_that_has_ended_leaves_it_alone(folder: RunFolder) -> None:
    folder.write_outcome({"status": "succeeded", "exit_code": 0})
    ran = reco("stop", "a-run")
    assert ran.exit_code == 0
    assert "not running: it has succeeded" in ran.output
    assert not folder.stop_requested()


@pytest.mark.parametrize("words", [("stop", "nobody"), ("runs", "checkpoints", "nobody")])
def test_a_run_that_is_not_there(folder: RunFolder, words: tuple[str, ...]) -> None:
    ran = reco(*words)
    assert ran.exit_code == 2
    assert "there is no run nobody in" in ran.output
    assert "RECO_STORAGE" in ran.output


def test_a_record_that_is_half_written_is_read_again(folder: RunFolder, tmp_path: Path) -> None:
    record = tmp_path / "a-run" / "progress.json"
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
