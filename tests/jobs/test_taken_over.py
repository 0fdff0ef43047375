"""A job whose run a newer attempt has taken over ends by itself, and leaves nothing where the newer one writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from jobs.checkpoints.fence import Fence
from jobs.job_folder import JobFolder
from jobs.run_folder import RunFolder
from jobs.sweeps.folder import SweepFolder
from tests.pictures import tiny_spec, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train") / "shards", samples=200)


def test_a_run_that_is_taken_over_is_left_to_the_newer_attempt(
    shards: Path, tracking_home: Path, uri: str, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec(shards, train__epochs=5000, checkpoint__every="1h"))
    run = RunFolder(str(tmp_path), "taken-over")
    with started("jobs.pretrain", str(spec), "--run-id", run.run_id, folder=run, home=tracking_home) as job:
        await_(lambda: bool((run.progress() or {}).get("step")), job, tmp_path)
        Fence.take(run.storage)
        assert job.wait(PATIENCE_S) == 1
    assert "was replaced by attempt 2" in log(tmp_path)
    assert run.outcome() is None
    assert run.failure() is None
    assert len(run.attempts()) == 2  # it did not take the run back
    assert status(uri, run.run_id) == "RUNNING"


def test_a_sweep_that_is_taken_over_is_left_to_the_newer_attempt_with_its_trials(
    shards: Path, tracking_home: Path, uri: str, tmp_path: Path
) -> None:
    (tmp_path / "base.yaml").write_text(tiny_spec(shards, probe=shards, train__probe_every=1))
    spec = tmp_path / "sweep.yaml"
    spec.write_text("name: s\nbase: base.yaml\ntrials: 3\nconcurrency: 1\nscheduler: {grace_epochs: 1}\n")
    sweep = SweepFolder(str(tmp_path), "taken-over-sweep")
    with started("jobs.sweep", "run", str(spec), "--id", sweep.sweep_id, folder=sweep, home=tracking_home) as job:
        await_(lambda: bool(sweep.ledger().events()), job, tmp_path)
        Fence.take(sweep.storage)
        assert job.wait(PATIENCE_S) == 1
    assert "was replaced by attempt 2" in log(tmp_path)
    assert sweep.outcome() is None
    assert len(sweep.ledger().events()) == 1
    assert not sweep.run(0).stop_requested()
    assert status(uri, sweep.sweep_id) == "RUNNING"


@contextmanager
def started(module: str, *words: str, folder: JobFolder, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A job under way; nothing of it is left afterwards, Ray neither."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    command = [sys.executable, "-m", module, *words, "--storage", folder.parent, "--home", str(home)]
    with (Path(folder.parent) / "log").open("wb") as file:
        job = subprocess.Popen(command, env=kept, stdout=file, stderr=file)
    try:
        yield job
    finally:
        if job.poll() is None:
            for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            job.wait()


def await_(reached: Callable[[], bool], job: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert job.poll() is None, log(folder)
        assert time.monotonic() < deadline, log(folder)
        time.sleep(0.1)


def log(folder: Path) -> str:
    return (folder / "log").read_text()[-8000:]


def status(uri: str, run_id: str) -> str:
    """Of the run of that id in MLflow; fails unless there is one."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`reco.run_id` = '{run_id}'")
    return str(found.info.status)
