"""Whatever fails on a cluster while a run trains, the run ends at the same step, and each step is there once."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.run_folder import Progress, RunFolder
from tests.cluster.conftest import Cluster
from tests.cluster.hosts import program
from tests.pictures import tiny_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

RUNS = "s3://runs/faults"
OUTAGE_S = 60.0
PATIENCE_S = 400.0
EPOCHS, STEPS_PER_EPOCH, LOG_EVERY = 60, 12, 4


class Job:
    """A run that its driver, on the head, works at.

    Args:
        cluster: Where.
        run_id: The run's name.
        changes: To `tiny_spec`.
    """

    def __init__(self, cluster: Cluster, run_id: str, **changes: object) -> None:
        self.cluster = cluster
        self.run_id = run_id
        self.folder = RunFolder(RUNS, run_id)
        spec = cluster.folder / f"{run_id}.yaml"
        given = {
            "scale__workers": 2,
            "train__epochs": EPOCHS,
            "train__log_every": LOG_EVERY,
            "train__probe_every": 1000,
            "checkpoint__every": "20 steps",
            "scale__stall_minutes": 0.4,
        }
        spec.write_text(tiny_spec(Path("s3-train"), **(given | changes)).replace("s3-", "s3://data/"))
        self._spec = spec
        self.driver = self._start()

    def start_again(self) -> None:
        """The same command, as somebody types it again."""
        self.driver.wait()
        self.driver = self._start()

    def await_progress(self, what: str, reached: Callable[[Progress], bool]) -> Progress:
        """Wait until the run's progress record says so."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            progress = self.folder.progress()
            if progress and reached(progress):
                return progress
            assert self.driver.poll() is None, f"the driver ended before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {what}, but {progress}\n{self.log}"
            time.sleep(0.2)

    def await_step(self, step: int) -> Progress:
        """Wait until it has taken so many steps."""
        return self.await_progress(f"step {step}", lambda progress: progress["step"] >= step)

    def await_attempt(self, number: int) -> None:
        """Wait until so many times workers have begun."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.folder.attempts()) < number:
            assert self.driver.poll() is None, f"the driver ended before attempt {number}:\n{self.log}"
            assert time.monotonic() < deadline, f"no attempt {number}\n{self.log}"
            time.sleep(0.2)

    def await_training(self, attempt: int) -> None:
        """Wait until the workers of that attempt, which comes after the one under way, have taken steps."""
        before = (self.folder.progress() or {}).get("resumed_from", 0)
        self.await_attempt(attempt)
        self.await_progress(
            f"step of attempt {attempt}",
            lambda progress: progress["step"] > progress.get("resumed_from", 0) > before,
        )

    def await_end(self) -> None:
        """Wait for the driver, and find everything in the run's folder and in MLflow: once, and in order."""
        self.driver.wait(timeout=PATIENCE_S)
        outcome = self.folder.outcome()
        assert outcome is not None, self.log
        assert outcome["status"] == "succeeded", self.log
        steps = list(range(LOG_EVERY, EPOCHS * STEPS_PER_EPOCH + 1, LOG_EVERY))
        assert [record["step"] for record in self.folder.records()] == steps
        assert self._history() == steps

    @property
    def log(self) -> str:
        """What the driver printed."""
        return self.cluster.hosts["head"].log(self.run_id)[-8000:]

    @property
    def workers(self) -> list[int]:
        """How many there were in each attempt."""
        return [attempt["workers"] for attempt in self.folder.attempts()]

    def _start(self) -> subprocess.Popen[bytes]:
        return self.cluster.hosts["head"].start(
            f"{program('python')} -m jobs.pretrain {self._spec} --run-id {self.run_id} --storage {RUNS} "
            f"--home {self.cluster.folder / 'home'}",
            self.cluster.environment,
            log=self.run_id,
        )

    def _history(self) -> list[int]:
        from mlflow import MlflowClient

        client = MlflowClient()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`reco.run_id` = '{self.run_id}'")
        assert len(runs) == 1
        points = client.get_metric_history(runs[0].info.run_id, "train/loss")
        assert all(
            earlier.step < later.step
            for earlier, later in pairwise(sorted(points, key=lambda point: (point.timestamp, point.step)))
        )
        return sorted(point.step for point in points)


def kill_a_worker(job: Job) -> None:
    start = time.monotonic()
    assert job.cluster.hosts["two"].kill_one("RayTrainWorker")
    job.await_training(attempt=2)
    print(f"training again {time.monotonic() - start:.0f} s after a worker was killed")


def kill_a_loader(job: Job) -> None:
    assert job.cluster.hosts["one"].kill_one("jobs.loading.worker")


def freeze_a_loader(job: Job) -> None:
    assert job.cluster.hosts["one"].kill_one("jobs.loading.worker", by=signal.SIGSTOP)
    job.await_attempt(2)
    log = job.cluster.hosts["head"].log(job.run_id)
    assert re.search(r"an attempt failed \(rank \d on one \(.* made no progress .* in phase wait\)", log), log[-4000:]


def freeze_a_worker(job: Job) -> None:
    assert job.cluster.hosts["two"].kill_one("RayTrainWorker", by=signal.SIGSTOP)
    job.await_attempt(2)


def kill_a_host_that_comes_back(job: Job) -> None:
    job.cluster.hosts["two"].kill()
    time.sleep(20)
    job.cluster.start_worker("two")


def cut_a_link(job: Job) -> None:
    host = job.cluster.hosts["two"]
    host.unplug()
    time.sleep(OUTAGE_S)
    host.plug_in()
    # Ray has given the host up, which ends when it hears so; whoever looks after it starts it again.
    deadline = time.monotonic() + PATIENCE_S
    while host.runs("ray start"):
        assert time.monotonic() < deadline, host.log("ray")
        time.sleep(1)
    job.cluster.start_worker("two")


def stop_the_storage(job: Job) -> None:
    job.cluster.hosts["storage"].kill()
    time.sleep(OUTAGE_S)
    job.cluster.start_storage()


def stop_the_tracking(job: Job) -> None:
    job.cluster.hosts["tracking"].kill()
    time.sleep(OUTAGE_S)
    job.cluster.start_tracking()


def kill_the_driver(job: Job) -> None:
    assert job.cluster.hosts["head"].kill_one("jobs.pretrain")
    job.start_again()


FAULTS = [
    kill_a_worker,
    kill_a_loader,
    kill_the_driver,
    freeze_a_loader,
    freeze_a_worker,
    stop_the_tracking,
    stop_the_storage,
    kill_a_host_that_comes_back,
    cut_a_link,
]


@pytest.mark.usefixtures("as_a_host")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_a_run_outlives(fault: Callable[[Job], None], cluster: Cluster) -> None:
    job = Job(cluster, fault.__name__.replace("_", "-"))
    job.await_step(40)
    fault(job)
    job.await_end()
    restore(cluster)


@pytest.mark.usefixtures("as_a_host")
def test_a_run_goes_on_with_the_hosts_there_are(cluster: Cluster) -> None:
    job = Job(cluster, "elastic", scale__min_workers=1)
    job.await_step(40)
    cluster.hosts["two"].kill()
    job.await_attempt(2)  # on the host that is left
    cluster.start_worker("two")
    job.await_attempt(3)  # on both again
    node = cluster.nodes()[cluster.hosts["two"].address]
    cluster.hosts["head"].run(
        f"{program('ray')} drain-node --address {cluster.environment['RAY_ADDRESS']} --node-id {node} "
        "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message reclaimed --deadline-remaining-seconds 30",
        cluster.environment,
        timeout=60,
    )
    told = time.monotonic()
    job.await_training(attempt=4)
    print(f"training again {time.monotonic() - told:.0f} s after a host was told to leave")
    job.await_end()
    assert job.workers == [2, 1, 2, 1]
    restore(cluster)


def restore(cluster: Cluster) -> None:
    """Both hosts in Ray again, for the next test."""
    there = cluster.nodes()
    for name in ("one", "two"):
        if cluster.hosts[name].address not in there:
            cluster.hosts[name].kill()
            cluster.start_worker(name)
    cluster.await_nodes("head", "one", "two")
