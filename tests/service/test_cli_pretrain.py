"""`reco pretrain`: the plan and the question, following, Ctrl-C, and the same id again; with a real leader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.checkpoints.fence import Fence
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from service.cli.main import app
from service.cli.planning import from_here
from tests.pictures import tiny_spec, write_shards
from tests.service.leading import end_all
from tests.service.terminal import CTRL_C, at_terminal

RECO = [sys.executable, "-m", "service.cli.main"]
PATIENCE_S = 120.0


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's spec, and a service of this test's own."""
    for name in ("RECO_API", "RECO_STORAGE", "RECO_DATABASE", "RECO_BACKEND", "RECO_RAY_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "home"))
    spec = tmp_path / "run.yaml"
    spec.write_text(tiny_spec(tmp_path / "shards"))
    return spec


def reco(*words: str, code: int = 0) -> Result:
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == code, ran.output
    return ran


def test_a_dry_run_shows_the_plan_and_starts_nothing(spec: Path) -> None:
    ran = reco("pretrain", str(spec), "--dry-run", "--run-id", "mine", "--set", "train.epochs=7")
    assert "Run mine" in ran.stdout
    assert "7 epochs" in ran.stdout
    assert f"{spec.parent}/home/runs/mine" in ran.stdout
    assert reco("runs", "list", "-q").stdout == ""


def test_mistakes_are_told_with_their_lines_before_anything_is_asked(spec: Path) -> None:
    spec.write_text("name: tiny\ndata: {train: shards, image_size: 32, lans: 4}\nencoder: {name: resnet18}\n")
    ran = reco("pretrain", str(spec), "--set", "train.epochs=0", code=2)
    assert "2 mistakes" in ran.stderr
    assert "line 2: data.lans" in ran.stderr
    assert not (spec.parent / "home").exists()


def test_paths_mean_what_they_mean_here() -> None:
    text = tiny_spec(Path("some/shards"), probe=Path("labelled"))
    changes = ["data.probe.test=[a.tar, /b.tar]", "data.probe.valid=s3://bucket/probe", "data.index=index"]
    data = from_here(parse_spec(text, changes)).data
    assert data.train == str(Path.cwd() / "some/shards")
    assert data.index == str(Path.cwd() / "index")
    assert data.probe is not None
    assert (data.probe.train, data.probe.valid) == (str(Path.cwd() / "labelled"), "s3://bucket/probe")
    assert data.probe.test == [str(Path.cwd() / "a.tar"), "/b.tar"]


@pytest.mark.parametrize(("keys", "code"), [("n\r", 1), (CTRL_C, 130), ("\x04", 1)])
def test_who_says_no_to_the_plan_starts_nothing(spec: Path, keys: str, code: int) -> None:
    with at_terminal([*RECO, "pretrain", str(spec)], dict(os.environ)) as terminal:
        terminal.wait_for("Start it? (Y = yes, n = no)")
        terminal.press(keys)
        assert terminal.wait() == code, terminal.shown
    assert reco("runs", "list", "-q").stdout == ""


def test_the_folder_of_another_experiment_is_refused_and_its_outcome_kept(spec: Path, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "taken")
    folder.claim(parse_spec(tiny_spec(tmp_path)))
    Fence.take(folder.storage)  # its workers have begun
    folder.write_outcome({"status": "succeeded", "exit_code": 0, "results": {}})
    words = ("--set", "optimizer.lr=0.5", "--run-id", "taken", "--storage", str(tmp_path))
    ran = reco("pretrain", str(spec), *words, code=2)
    assert "holds another experiment" in ran.stderr
    assert folder.outcome() == {"status": "succeeded", "exit_code": 0, "results": {}}


@pytest.mark.parametrize("run_id", ["../escaped", "a b", "", ".hidden", "a/b", "x" * 129])
def test_an_id_that_is_no_name_is_refused_and_nothing_written(spec: Path, run_id: str) -> None:
    ran = reco("pretrain", str(spec), "--run-id", run_id, code=2)
    assert f"run_id cannot be '{run_id}'" in ran.stderr
    assert [path.name for path in spec.parent.iterdir()] == ["run.yaml"]


def test_a_file_of_the_users_that_is_called_like_one_of_pythons_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not yours')\n")
    reco = str(Path(sys.executable).with_name("reco"))
    shards = write_shards(tmp_path / "shards", samples=8)
    ran = subprocess.run(
        [reco, "data", "stats", str(shards)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


class Waiting:
    """A service whose runs never train: MLflow does not answer, so each of them waits for its next attempt.

    Attributes:
        environment: For commands.
        spec: Of a run.
    """

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RECO_", "RAY_"))}
        self.home = folder / "home"
        self.environment = {**kept, "RECO_HOME": str(self.home), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        self.spec = folder / "run.yaml"
        self.spec.write_text(tiny_spec(write_shards(folder / "shards", samples=200)))

    def started(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*RECO, *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def reco(self, *words: str, code: int = 0) -> tuple[str, str]:
        unset = dict.fromkeys(name for name in os.environ if name.startswith(("RECO_", "RAY_")))
        ran = CliRunner(env={**unset, **self.environment}).invoke(app, words)
        assert ran.exit_code == code, ran.output
        return ran.stdout, ran.stderr


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waiting]:
    """With the run `waits`, which was started at a terminal and left to itself."""
    made = Waiting(tmp_path_factory.mktemp("waiting"))
    try:
        with at_terminal([*RECO, "pretrain", str(made.spec), "--run-id", "waits"], made.environment) as terminal:
            terminal.wait_for("Start it? (Y = yes, n = no)")
            terminal.press("y\r")
            terminal.wait_for("recovering: MLflow was away")
            terminal.wait_for("next attempt in 0:")
            terminal.press(CTRL_C)
            terminal.wait_for("Leave run waits? (D = detach, it goes on, s = save and stop it, g = go on watching)")
            terminal.press("g\r")
            terminal.wait_for("next attempt")
            terminal.press(CTRL_C)
            terminal.wait_for("Leave run waits?")
            terminal.press("d\r")
            assert terminal.wait() == 0, terminal.shown
            assert "run waits goes on" in terminal.shown
            assert "`reco runs stop waits`" in terminal.shown
        yield made
    finally:
        end_all(made.home)


def wait_for(job: subprocess.Popen[str], words: str) -> str:
    """What a command tells up to the line with these words."""
    told = ""
    assert job.stderr is not None
    while words not in told:
        line = job.stderr.readline()
        assert line, f"it ended without saying {words!r}:\n{told}"
        told += line
    return told


def test_a_second_ctrl_c_leaves_at_once_and_the_run_goes_on(waiting: Waiting) -> None:
    with at_terminal([*RECO, "pretrain", str(waiting.spec), "--run-id", "waits"], waiting.environment) as terminal:
        terminal.wait_for("attached to it")
        terminal.wait_for("next attempt")
        terminal.press(CTRL_C)
        terminal.wait_for("Leave run waits?")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert "run waits goes on" in terminal.shown
    assert '"state": "cancelled"' not in waiting.reco("runs", "show", "waits", "--json")[0]


def test_the_id_of_a_run_with_another_spec_is_refused(waiting: Waiting) -> None:
    words = ("pretrain", str(waiting.spec), "--run-id", "waits", "--set", "optimizer.lr=0.5")
    said = waiting.reco(*words, code=2)[1]
    assert "run waits exists with another spec" in said
    assert "--run-id" in said


def test_without_a_terminal_ctrl_c_stops_the_run_and_the_same_id_resumes_it(waiting: Waiting) -> None:
    job = waiting.started("pretrain", str(waiting.spec), "--run-id", "again")
    wait_for(job, "recovering: MLflow was away")
    job.send_signal(signal.SIGINT)
    told = job.communicate(timeout=PATIENCE_S)[1]
    assert job.returncode == 130, told
    assert "it goes on with: reco runs resume again" in told
    assert "was stopped" in waiting.reco("runs", "stop", "again")[0]  # it has ended: nothing to stop

    words = ("--run-id", "again", "--detach", "--set", "scale.max_restarts=7", "--set", "data.bad_pictures=0.5")
    assert waiting.reco("pretrain", str(waiting.spec), *words)[0] == "again\n"
    shown = waiting.reco("runs", "show", "again", "--json")[0]
    assert "max_restarts: 7" in shown
    assert "bad_pictures: 0.5" in shown
    assert "was stopped; `reco runs resume again`" in waiting.reco("runs", "stop", "again")[0]


def test_a_detached_run_is_waited_for_by_its_log(waiting: Waiting) -> None:
    assert waiting.reco("pretrain", str(waiting.spec), "--run-id", "far", "-d", "--project", "birds")[0] == "far\n"
    assert waiting.reco("runs", "list", "-q", "--project", "birds")[0] == "far\n"
    job = waiting.started("runs", "logs", "far", "-f")
    assert job.stdout is not None
    while "MLflow" not in (line := job.stdout.readline()):
        assert line
    waiting.reco("runs", "stop", "far", "--no-wait")
    printed, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 130, printed
    assert "cancelled" in waiting.reco("runs", "events", "far")[0]
