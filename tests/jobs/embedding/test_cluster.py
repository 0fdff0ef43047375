"""Shares of a real cluster that other work is on, and what is said while they are waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray.actor import ActorHandle

from jobs.embedding.cluster import Share, share_out, waiting_said
from jobs.embedding.encoder import pack_encoder
from jobs.embedding.ray_workers import embed_on_cluster
from jobs.embedding.sources import open_source
from jobs.embedding.worker import BATCH, spans
from jobs.errors import UserError

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 60.0

Occupy = Callable[[int], ActorHandle]


@ray.remote
class Busy:
    def ready(self) -> None: ...


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One host with eight cores."""
    ray.init(address="local", num_cpus=8, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def occupy(cluster: None) -> Iterator[Occupy]:
    """Takes cores until the end of the test."""
    actors = []

    def take(cores: int) -> ActorHandle:
        actors.append(Busy.options(num_cpus=cores).remote())
        ray.get(actors[-1].ready.remote())
        wait_for_free(8 - cores)
        return actors[-1]

    yield take
    for actor in actors:
        ray.kill(actor)  # no matter if it is gone
    wait_for_free(8)


def wait_for_free(cores: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while ray.available_resources().get("CPU", 0) != cores:
        assert time.monotonic() < deadline, "the cores were never free"
        time.sleep(0.01)


def watched() -> None:
    """Wait until the cluster has been looked at."""
    for thread in threading.enumerate():
        if thread.name == "waiting":
            thread.join(PATIENCE_S)


def test_an_idle_cluster_is_divided_whole(cluster: None) -> None:
    assert share_out(None, None) == Share(1, 8, 0)
    assert share_out(3, None) == Share(3, 2, 0)


def test_defaults_are_cut_from_what_is_free(occupy: Occupy) -> None:
    occupy(5)
    assert share_out(None, None) == Share(1, 3, 0)
    assert share_out(3, None) == Share(3, 1, 0)
    assert share_out(None, 2) == Share(1, 2, 0)


def test_what_is_asked_for_and_in_use_is_waited_for_but_what_is_not_there_is_not(occupy: Occupy) -> None:
    occupy(5)
    assert share_out(4, None) == Share(4, 1, 0)
    assert share_out(None, 6) == Share(1, 6, 0)
    with pytest.raises(UserError, match="9 workers with 1 cores each do not fit the cluster's 8 cores"):
        share_out(9, None)


def test_without_a_free_core_there_is_no_default(occupy: Occupy) -> None:
    occupy(8)
    with pytest.raises(UserError, match="none of the cluster's 8 cores is free"):
        share_out(None, None)


def test_workers_without_a_place_are_told_of(occupy: Occupy, capfd: pytest.CaptureFixture[str]) -> None:
    occupy(5)
    with waiting_said(Share(2, 4, 0), "Busy", after_s=0.05):
        watched()
    assert capfd.readouterr().err == "", "one of them has a place"
    with waiting_said(Share(2, 4, 0), "Waiting", after_s=0.05):
        waiting = ray.remote(type("Waiting", (), {})).options(num_cpus=4).remote()
        watched()
    assert (
        capfd.readouterr().err
        == "waiting for the first of 2 workers with 4 cores each: 3 of 8 cores of the cluster are free\n"
    )
    ray.kill(waiting)


def test_an_embedding_job_that_waits_is_told_of_and_goes_on(
    occupy: Occupy, encoder: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    busy, share = occupy(5), Share(1, 6, 0)
    packed, source = pack_encoder(str(encoder), Path("unused")), open_source([str(photos)])
    parts = list(enumerate(spans(len(source), BATCH)))
    with waiting_said(share, "MapWorker", after_s=0.05), ThreadPoolExecutor(1) as pool:
        embedding = pool.submit(lambda: [done.number for done in embed_on_cluster(packed, source, parts, share)])
        watched()
        ray.kill(busy)
        assert sorted(embedding.result(PATIENCE_S)) == [0, 1, 2, 3, 4]
    assert "waiting for a worker with 6 cores: 3 of 8 cores of the cluster are free\n" in capfd.readouterr().err
