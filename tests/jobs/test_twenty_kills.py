"""Twenty times kill -9 in one run of 400 steps, and nobody can tell from its curve."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.run_folder import RunFolder
from tests.pictures import tiny_spec, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

STEPS, KILLS, LOG_EVERY = 400, 20, 2
LAST_KILL = 250  # a kill takes a moment, and a run that has ended meanwhile has nothing left to kill
PLACES = {
    "worker": "RayTrainWorker",
    "loader": "jobs.loading.worker",
    "saver": "jobs.checkpoints.worker",
    "driver": "jobs.pretrain",
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    from jobs.tracking.server import stop_server

    yield tmp_path / "home"
    stop_server(tmp_path / "home")


class Driver:
    """A run on this machine, started again whenever its driver is dead.

    Args:
        home: Of the project's local state.
        spec: The run's.
        run_id: The run.
    """

    def __init__(self, home: Path, spec: Path, run_id: str) -> None:
        self._command = [sys.executable, "-m", "jobs.pretrain", str(spec), "--run-id", run_id]
        self._command += ["--home", str(home), "--storage", str(home.parent)]
        self._log = home.parent / f"{run_id}.log"
        self.folder = RunFolder(str(home.parent), run_id)
        self.start()

    def start(self) -> None:
        """Begin, or go on."""
        kept = {name: of for name, of in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=kept | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, start_new_session=True
            )

    def await_step(self, step: int) -> None:
        """Wait until it has taken so many steps in its latest attempt."""
        deadline = time.monotonic() + 300
        while not ((progress := self.folder.progress()) and progress["step"] >= step):
            assert self._process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < deadline, self._log.read_text()[-4000:]
            time.sleep(0.02)

    def kill(self, place: str) -> bool:
        """Kill the driver with all that belongs to it, or one process below it; whether it was there."""
        if place == "driver":
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.start()
            return True
        for child in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if PLACES[place] in " ".join(child.cmdline()):
                    child.kill()
                    return True
            except psutil.NoSuchProcess:
                continue
        return False

    @property
    def has_ended(self) -> bool:
        """Whether its driver has."""
        return self._process.poll() is not None

    def await_end(self) -> None:
        """Wait until it is complete."""
        assert self._process.wait(timeout=600) == 0, self._log.read_text()[-4000:]


def curve(home: Path, run_id: str) -> list[tuple[int, float]]:
    """The loss in MLflow, in the order it was logged; fails unless there is one run of that id."""
    from mlflow import MlflowClient

    from jobs.tracking.server import tracking_uri

    client = MlflowClient(tracking_uri(home))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`reco.run_id` = '{run_id}'")
    assert len(runs) == 1
    points = client.get_metric_history(runs[0].info.run_id, "train/loss")
    return [(point.step, point.value) for point in sorted(points, key=lambda point: (point.timestamp, point.step))]


def test_twenty_kills_change_nothing(home: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "train", samples=256)
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        tiny_spec(
            shards,
            train__epochs=STEPS // 8,
            train__log_every=LOG_EVERY,
            checkpoint__every="4 steps",
            scale__max_restarts=KILLS,  # several may come before the next checkpoint
        )
    )
    undisturbed = Driver(home, spec, "undisturbed")
    undisturbed.await_end()

    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    disturbed = Driver(home, spec, "disturbed")
    killed: list[str] = []
    moments = sorted(chance.sample(range(4, LAST_KILL), KILLS))
    for moment in moments:
        disturbed.await_step(moment)
        time.sleep(chance.random() / 5)
        place = chance.choice(list(PLACES))
        while not disturbed.kill(place):  # it may be about to be started again
            assert not disturbed.has_ended, f"no {place} is left to be killed"
            time.sleep(0.1)
        killed.append(place)
    disturbed.await_end()
    print(f"killed: {', '.join(f'{place} at {moment}' for place, moment in zip(killed, moments, strict=True))}")

    assert [step for step, _ in curve(home, "undisturbed")] == list(range(LOG_EVERY, STEPS + 1, LOG_EVERY))
    assert curve(home, "disturbed") == curve(home, "undisturbed")
    records = [(each["step"], each["metrics"]["train/loss"]) for each in disturbed.folder.records()]
    assert records == curve(home, "undisturbed")
