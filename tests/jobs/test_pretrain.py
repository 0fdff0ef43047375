"""A run whole: real Ray Train, a real MLflow server, a registered encoder; and it survives kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from jobs.run_folder import RunFolder
from tests.pictures import damage, tiny_spec, write_shards
from tests.service.leading import end_all

if TYPE_CHECKING:
    from mlflow.entities import Run

PATIENCE_S = 300.0  # a Ray cluster starts in ten seconds on two free cores, in a minute or more beside other work
pytestmark = pytest.mark.timeout(1000)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a local MLflow server and a leader of its own, which end with the tests of this file."""
    from jobs.tracking.server import stop_server

    home = tmp_path_factory.mktemp("home")
    yield home
    end_all(home)
    stop_server(home)


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    others = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RECO_API", "RECO_STORAGE", "RECO_DATABASE", "RECO_BACKEND")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return kept | {"RECO_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train") / "shards", samples=200)


def reco(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE_S)


def one_attempt(
    spec: Path, run_id: str, *words: str, home: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """One attempt without the service, which would make another one after an outage."""
    command = [sys.executable, "-m", "jobs.pretrain", str(spec), "--run-id", run_id, "--home", str(home)]
    command += ["--storage", str(home / "runs"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE_S)


def mlflow_run(home: Path, run_id: str) -> Run:
    """The run of that id; fails unless there is one."""
    from mlflow import MlflowClient

    from jobs.tracking.server import tracking_uri

    client = MlflowClient(tracking_uri(home))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`reco.run_id` = '{run_id}'")
    return found


def history(home: Path, run_id: str, metric: str) -> list[int]:
    """Steps of a metric as MLflow has them, in the order they were logged."""
    from mlflow import MlflowClient

    from jobs.tracking.server import tracking_uri

    client = MlflowClient(tracking_uri(home))
    run = mlflow_run(home, run_id)
    points = client.get_metric_history(run.info.run_id, metric)
    return [point.step for point in sorted(points, key=lambda point: (point.timestamp, point.step))]


def test_one_spec_gives_one_registered_encoder(
    shards: Path, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        tiny_spec(shards, probe=shards, scale__workers=2, train__epochs=2, register="{model: tiny-encoder}")
    )
    ran = reco("pretrain", str(spec), "--run-id", "whole", environment=environment)
    assert ran.returncode == 0, ran.stderr
    assert "k-NN (k = 5) on valid" in ran.stdout
    assert "untrained encoder, calibrated" in ran.stdout
    assert "registered tiny-encoder/1" in ran.stdout
    assert history(home, "whole", "train/loss") == [2, 4, 6, 8, 10, 12]
    folder = RunFolder(str(home / "runs"), "whole")
    outcome = folder.outcome()
    assert outcome is not None
    assert (outcome["status"], outcome["model"]) == ("succeeded", "tiny-encoder/1")
    log = reco("runs", "logs", "whole", "-f", environment=environment)
    assert (log.returncode, "step" in log.stdout) == (0, True)
    assert "[rank 0] " in log.stdout  # whose line it is
    assert "[rank 1] " in log.stdout
    events = reco("runs", "events", "whole", environment=environment).stdout
    assert [line.split()[3] for line in events.splitlines()][-2:] == ["running:", "succeeded:"]

    shown = json.loads(reco("models", "show", "tiny-encoder@candidate", "--json", environment=environment).stdout)
    assert "resnet10" in json.dumps(shown)

    out = tmp_path / "embeddings.parquet"
    pictures = ("--sheet", str(tmp_path / "sheet.png"), "--map", str(tmp_path / "map.png"))
    embedded = reco("embed", "tiny-encoder@candidate", str(shards), "-o", str(out), *pictures, environment=environment)
    assert embedded.returncode == 0, embedded.stderr
    import pyarrow.parquet as pq

    table = pq.read_table(out)
    assert table.column_names == ["key", "label", "embedding"]
    assert table.num_rows == 200
    assert len(table["embedding"][0]) == 64  # 8 channels in the first stage, 8 times as many in the last
    assert (tmp_path / "sheet.png").stat().st_size > 5000
    assert (tmp_path / "map.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_leave_one_run_without_a_gap(
    shards: Path, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=60, scale__workers=2))
    command = [sys.executable, "-m", "jobs.pretrain", str(spec), "--run-id", "cut", "--home", str(home)]
    command += ["--storage", str(tmp_path)]
    folder = RunFolder(str(tmp_path), "cut")

    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_for_step(folder, job, 20)
        worker = next(child for child in psutil.Process(job.pid).children(recursive=True) if is_worker(child))
        worker.kill()  # Ray Train restarts the workers, from the last checkpoint
        wait_for_step(folder, job, 100, resumed=True)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stderr[-3000:]
    progress = folder.progress()
    assert progress is not None
    assert progress["resumed_from"] >= 100 - 20
    steps = list(range(2, 361, 2))
    assert history(home, "cut", "train/loss") == steps
    assert [record["step"] for record in folder.records()] == steps


@pytest.mark.slow
def test_a_run_of_the_same_id_on_another_server_leaves_no_trace_in_this_one(
    shards: Path, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=1))
    spool = Path(tempfile.gettempdir()) / "reco" / "twin.jsonl"
    spool.parent.mkdir(exist_ok=True)
    record = {"run": "twin", "step": 5, "pictures": 160, "time_ms": 1, "metrics": {"train/loss": 1.0}, "non_finite": []}
    spool.write_text(json.dumps(record) + "\n")
    try:
        ran = reco("pretrain", str(spec), "--run-id", "twin", "--storage", str(tmp_path), environment=environment)
    finally:
        spool.unlink()
    assert ran.returncode == 0, ran.stderr
    assert history(home, "twin", "train/loss") == [2, 4, 6]


def hear_ctrl_c() -> None:
    # As at a terminal: a shell's background jobs, which tests may be, ignore SIGINT and hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_run_id_goes_on(
    shards: Path, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=50, checkpoint__every="1h"))
    command = [sys.executable, "-m", "service.cli.main", "pretrain", str(spec), "--run-id", "stopped"]
    command += ["--storage", str(tmp_path)]
    folder = RunFolder(str(tmp_path), "stopped")
    job = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    wait_for_step(folder, job, 4)
    job.send_signal(signal.SIGINT)
    _, told = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 130, told
    assert "it goes on with: reco runs resume stopped" in told
    saved = int(max(path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()).split("-")[1])
    assert 4 <= saved < 300
    ran = reco(*command[3:], environment=environment)
    assert ran.returncode == 0, ran.stderr
    assert history(home, "stopped", "train/loss") == list(range(2, 301, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("scale.workers=4", "the run needs 4 CPUs"),
        ("scale.gpus_per_worker=1", "the run needs 1 GPUs"),
        ("data.train=/nowhere/at/all", "/nowhere/at/all"),
        ("method.queue_size=128", "longer than half of the 200 pictures"),
    ],
)
def test_what_cannot_run_is_one_line_with_exit_code_2(
    shards: Path, environment: dict[str, str], tmp_path: Path, change: str, words: str
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards))
    ran = reco("pretrain", str(spec), "--set", change, "--storage", str(tmp_path / "runs"), environment=environment)
    assert ran.returncode == 2, ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list((tmp_path / "runs").glob("*/checkpoints"))


def test_mlflow_that_does_not_answer_is_told_before_training(
    shards: Path, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards))
    there = environment | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    ran = one_attempt(spec, "no-mlflow", home=home, environment=there)
    assert ran.returncode == 2
    assert "127.0.0.1:9" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_dead_ray_address_is_told_at_once(
    shards: Path, home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards))
    there = environment | {"RAY_ADDRESS": "127.0.0.1:9"}
    ran = one_attempt(spec, "no-ray", home=home, environment=there)
    assert ran.returncode == 2
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9: nothing listens there" in ran.stderr


@pytest.mark.slow
def test_after_a_mistake_the_same_run_id_takes_the_mended_spec_and_mlflow_names_the_bad_pictures(
    home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards", samples=200)
    damage(shards, 2, range(7, 8))
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=1, data__bad_pictures=0.01))
    ran = one_attempt(spec, "mended", "--set", "data.train=/nowhere", home=home, environment=environment)
    assert ran.returncode == 2
    ran = one_attempt(spec, "mended", home=home, environment=environment)
    assert ran.returncode == 0, ran.stderr
    tags = mlflow_run(home, "mended").data.tags
    assert tags["reco.bad_pictures"] == "1"
    assert tags["reco.bad_pictures_first"].startswith("part-000002.tar/000087: ")


def wait_for_step(
    folder: RunFolder, job: subprocess.Popen[str] | subprocess.Popen[bytes], step: int, *, resumed: bool = False
) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        progress = folder.progress()
        if progress and progress["step"] >= step and (not resumed or progress.get("resumed_from")):
            return
        assert job.poll() is None, "the job ended before the step was reached"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
