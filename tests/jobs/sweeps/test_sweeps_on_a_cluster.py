"""Whole sweeps on a Ray cluster that outlives their drivers: killed, side by side, stopped and taken up again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import Trial, trials_of
from tests.pictures import tiny_spec, write_shards
from tests.s3 import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray cluster of two CPUs."""
    ray = Path(sys.executable).with_name("ray")
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = f"{ray} start --head --node-ip-address 127.0.0.1 --port {address.rpartition(':')[2]} --num-cpus 2"
        command += f" --dashboard-port {free_port()} --object-store-memory {100 << 20} --temp-dir {folder} --block"
        with (Path(folder) / "log").open("wb") as log:
            head = subprocess.Popen(command.split(), env=_environment(), stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while _placement_groups(address) is None:
                assert time.monotonic() < deadline, (Path(folder) / "log").read_text()
                time.sleep(1)
            yield address
        finally:
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                process.kill()
            head.wait()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from jobs.tracking.server import stop_server

    folder = tmp_path_factory.mktemp("sweeps")
    train = write_shards(folder / "train", samples=256)
    probe = write_shards(folder / "probe", samples=80, seed=1)
    (folder / "base.yaml").write_text(tiny_spec(train, probe=probe))
    yield folder
    stop_server(folder / "home")


class Driver:
    """The process that carries out a sweep."""

    def __init__(self, home: Path, address: str, sweep_id: str, spec: str) -> None:
        path = home / f"{sweep_id}.yaml"
        path.write_text(f"base: base.yaml\n{spec}")
        self._command = [sys.executable, "-m", "jobs.sweep", "run", str(path), "--id", sweep_id]
        self._command += ["--storage", str(home / "store"), "--home", str(home / "home")]
        self._log = home / f"{sweep_id}.log"
        self._environment = _environment(RAY_ADDRESS=address)
        self.folder = SweepFolder(str(home / "store"), sweep_id)
        self.start()

    def start(self) -> None:
        """Begin, or go on."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """With everything below it, at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def await_events(self, number: int) -> None:
        """Until so many are in the ledger."""
        deadline = time.monotonic() + 300
        while len(self.folder.ledger().events()) < number:
            assert self._process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def await_end(self) -> int:
        """Its exit code."""
        return self._process.wait(timeout=600)

    @property
    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text()[-6000:]

    @property
    def trials(self) -> list[Trial]:
        """What became of each."""
        return trials_of(self.folder.ledger().events())


def content(trials: list[Trial]) -> list[tuple[object, ...]]:
    return [(each.number, each.values, each.points, each.status, each.objective) for each in trials]


def mlflow_runs(home: Path, sweep_id: str) -> tuple[str, dict[str, str]]:
    """Status of the sweep's own run, and of each run below it; fails unless it has one run of its own."""
    from mlflow import MlflowClient

    from jobs.tracking.server import tracking_uri

    client = MlflowClient(tracking_uri(home / "home"))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, f"tags.`reco.run_id` = '{sweep_id}'")
    below = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    statuses = {run.data.tags["reco.run_id"]: run.info.status for run in below}
    assert len(statuses) == len(below)  # one run for each trial, however often it was begun
    return parent.info.status, statuses


def test_killing_the_driver_twice_changes_nothing_and_leaves_nothing(home: Path, ray_address: str) -> None:
    spec = "name: kills\ntrials: 5\nconcurrency: 1\nscheduler: {grace_epochs: 1}\nbudget: {epochs: 4}\n"
    undisturbed = Driver(home, ray_address, "undisturbed", spec)
    assert undisturbed.await_end() == 0, undisturbed.said
    events = len(undisturbed.folder.ledger().events())

    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    disturbed = Driver(home, ray_address, "disturbed", spec)
    for moment in sorted(chance.sample(range(1, events - 1), 2)):
        disturbed.await_events(moment)
        time.sleep(4 * chance.random())
        disturbed.kill()
        disturbed.start()
    assert disturbed.await_end() == 0, disturbed.said

    assert content(disturbed.trials) == content(undisturbed.trials)
    parent, below = mlflow_runs(home, "disturbed")
    assert parent == "FINISHED"
    assert below == {f"disturbed-t{number:03d}": "FINISHED" for number in range(5)}
    assert _settled(ray_address) == []


def test_two_sweeps_at_once_do_not_mix_and_both_finish(home: Path, ray_address: str) -> None:
    spec = "name: both\ntrials: 2\nconcurrency: 1\nscheduler: {name: none}\nbudget: {epochs: 2}\n"
    drivers = [
        Driver(home, ray_address, name, f"{spec}search: {{seed: {seed}}}\n") for seed, name in enumerate(("one", "two"))
    ]
    for driver in drivers:
        assert driver.await_end() == 0, driver.said
        assert [(each.number, each.status) for each in driver.trials] == [(0, "finished"), (1, "finished")]
        _, below = mlflow_runs(home, driver.folder.sweep_id)
        assert sorted(below) == [f"{driver.folder.sweep_id}-t{number:03d}" for number in range(2)]
    assert drivers[0].trials[1].values != drivers[1].trials[1].values  # each has a study and a seed of its own
    assert _settled(ray_address) == []


def test_ctrl_c_saves_and_the_same_trial_goes_on_from_its_checkpoint(home: Path, ray_address: str) -> None:
    spec = "name: stop\ntrials: 2\nconcurrency: 1\nscheduler: {grace_epochs: 2}\nbudget: {epochs: 60}\n"
    driver = Driver(home, ray_address, "stopped", spec)
    driver.await_events(2)
    driver.interrupt()
    assert driver.await_end() == 130, driver.said
    outcome = driver.folder.outcome()
    assert outcome is not None
    assert outcome["status"] == "stopped"
    (trial,) = driver.trials
    assert trial.status == "running"
    assert 2 <= trial.epoch < 60
    assert mlflow_runs(home, "stopped") == ("KILLED", {"stopped-t000": "KILLED"})
    driver.start()
    assert driver.await_end() == 0, driver.said
    assert len(driver.trials) == 2
    run = driver.folder.run(0)
    assert len(run.attempts()) == 2
    steps = [record["step"] for record in run.records()]
    assert steps == sorted(set(steps))
    assert _settled(ray_address) == []


def _settled(address: str) -> list[str]:
    """Placement groups that are left when what has ended has had a moment to go."""
    deadline = time.monotonic() + 30
    while (left := _placement_groups(address)) and time.monotonic() < deadline:
        time.sleep(1)
    assert left is not None
    return left


def _placement_groups(address: str) -> list[str] | None:
    """Ids of those that hold or wait for resources; None where no cluster answers."""
    script = (
        "import json, ray; from ray.util import placement_group_table as table; "
        f"ray.init(address='{address}', logging_level='ERROR'); "
        "print(json.dumps([k for k, g in table().items() if g['state'] != 'REMOVED']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env=_environment(), capture_output=True, text=True, check=False
    )
    return json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else None


def _environment(**more: str) -> dict[str, str]:
    left_out = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"} | more
