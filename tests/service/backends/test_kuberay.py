"""What is KubeRay's own: what its words mean, how a job is ended, and what is kept of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from service.backends.base import Answer, BackendError, LogPart, UnreachableBackendError
from service.backends.kuberay import KubeRayBackend
from service.backends.kuberay_api import RayJobs
from service.backends.kuberay_manifest import ASKED, Template
from service.runs.retry import Cause, Evidence, classify
from tests.s3 import free_port
from tests.service.backends.kube import GIVEN_UP, JOB, NAME, Kube
from tests.service.backends.kube_api import FOREGROUND, NAMESPACE, now
from tests.service.backends.kuberay_operator import operated
from tests.service.backends.places import RAYJOB, end_of, log_of, shell, until
from tests.service.backends.ray_head import RayHead


@pytest.fixture
def silent() -> str:
    """Where a head should be, and nobody answers."""
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        ({}, Answer("pending", words="KubeRay has not taken it up yet")),
        ({"jobDeploymentStatus": "Initializing"}, Answer("pending", words="its Ray cluster is being made")),
        ({"jobDeploymentStatus": "Waiting"}, Answer("pending", words="its Ray cluster is about to start it")),
        ({"jobDeploymentStatus": "Suspended"}, Answer("pending", words="it waits in the queue training")),
        ({"jobDeploymentStatus": "Retrying"}, Answer("pending", words="its Ray cluster is about to start it")),
        (
            {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"},
            Answer("pending", words="its Ray cluster is about to start it"),
        ),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, Answer("running")),
        ({"jobDeploymentStatus": "Suspending", "jobStatus": "RUNNING"}, Answer("running")),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, Answer("succeeded", 0)),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "message": "by a user"}, Answer("stopped")),
        (
            {
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "Job entrypoint command failed with exit code -9, last available logs:\nexit code 3",
            },
            Answer("failed", -9, "AppFailed: Job entrypoint command failed with exit code -9"),
        ),
        (
            {"jobDeploymentStatus": "Failed", "reason": "PreRunningDeadlineExceeded", "message": "no pods"},
            Answer("failed", None, "PreRunningDeadlineExceeded: no pods"),
        ),
        (
            {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no head"},
            Answer("failed", None, "ValidationFailed: no head"),
        ),
    ],
)
def test_what_kuberay_says_of_a_job(kube: Kube, status: dict[str, object], answer: Answer) -> None:
    assert kube.submitted(**status).look(NAME) == answer


def test_that_kuberay_gives_up_is_no_end_while_the_head_says_that_the_job_runs(
    kube: Kube, ray_head: RayHead, job_id: str
) -> None:
    backend = kube.backend(token=ray_head.token)
    with operated(kube.api, ray_head):
        backend.submit(job_id, shell("exec sleep 300"))
        until(lambda: backend.look(job_id) == Answer("running"))
    kube.with_cluster()
    kube.api.set_status(job_id, **GIVEN_UP, endTime=now())
    answer = backend.look(job_id)
    assert answer.status == "running"
    assert "given up" in answer.words
    backend.forget(job_id)
    backend.stop(job_id)
    assert end_of(backend, job_id).status == "stopped"


def test_a_head_that_was_replaced_after_kuberay_gave_up_has_lost_the_job(kube: Kube, ray_head: RayHead) -> None:
    backend = kube.submitted(**GIVEN_UP, dashboardURL=ray_head.address.removeprefix("http://"), token=ray_head.token)
    kube.with_cluster()
    answer = backend.look(NAME)
    assert answer.status == "failed"
    assert classify(Evidence(message=answer.words)).cause is Cause.NODE_LOST
    with pytest.raises(BackendError, match="wants a token"):  # which says nothing of the job either
        kube.backend().look(NAME)


def test_of_a_job_whose_head_is_silent_nothing_is_known_until_its_cluster_is_gone(kube: Kube, silent: str) -> None:
    backend = kube.submitted(**GIVEN_UP, dashboardURL=silent)
    kube.with_cluster()
    # Not unreachable: that would keep the leader from asking for all other jobs, too.
    with pytest.raises(BackendError, match="given up") as caught:
        backend.look(NAME)
    assert "may train all the same" in (caught.value.hint or "")
    kube.api.delete("rayclusters", "cluster")
    answer = backend.look(NAME)
    assert (answer.status, answer.exit_code) == ("failed", None)
    assert classify(Evidence(message=answer.words)).cause is Cause.NODE_LOST
    backend.stop(NAME)
    assert backend.look(NAME) == answer, "an ended job is left as it is"


def test_a_deadline_of_the_template_is_no_lost_host(kube: Kube) -> None:
    backend = kube.submitted(**{**GIVEN_UP, "reason": "DeadlineExceeded", "message": "3 days"})
    assert backend.look(NAME) == Answer("failed", None, "DeadlineExceeded: 3 days")


def test_a_job_that_is_evicted_waits_for_its_turn_again(kube: Kube, ray_head: RayHead, job_id: str) -> None:
    backend = kube.backend(token=ray_head.token)
    with operated(kube.api, ray_head):
        backend.submit(job_id, shell("exec sleep 300"))
        until(lambda: backend.look(job_id) == Answer("running"))
        kube.api.change("rayjobs", job_id, lambda found: found["spec"].update(suspend=True))
        until(lambda: backend.look(job_id) == Answer("pending", words="it waits in the queue training"))
        assert backend.submit(job_id, JOB) is False
        assert backend.log(job_id, 0) == LogPart(b"", 0)
        backend.stop(job_id)
        until(lambda: backend.look(job_id) == Answer("absent"))


def test_an_object_that_is_being_deleted_is_a_job_until_it_is_gone(kube: Kube) -> None:
    backend = kube.submitted(jobDeploymentStatus="Running", jobStatus="RUNNING")
    kube.api.delete("rayjobs", NAME, foreground=True)
    assert backend.look(NAME) == Answer("running", words="it is being deleted")
    backend.stop(NAME)
    kube.api.change("rayjobs", NAME, lambda found: found["metadata"].update(finalizers=[]))
    assert backend.look(NAME) == Answer("absent")


def test_a_job_without_a_head_is_deleted_when_it_is_stopped(kube: Kube) -> None:
    backend = kube.submitted(jobDeploymentStatus="Suspended")
    backend.stop(NAME)
    left = kube.object()
    assert left["metadata"]["finalizers"] == [FOREGROUND]  # there until its pods have ended
    assert left["metadata"]["annotations"][ASKED] == kube.time.isoformat()
    backend.stop(NAME)
    assert kube.object() == left


def test_a_silent_head_is_waited_for_as_long_as_a_job_may_take_to_end(kube: Kube, silent: str) -> None:
    backend = kube.submitted(jobDeploymentStatus="Running", jobStatus="RUNNING", dashboardURL=silent)
    begun = kube.time
    for after_s in (0, 29):
        kube.time = begun + timedelta(seconds=after_s)
        with pytest.raises(UnreachableBackendError, match="does not answer"):
            backend.stop(NAME)
        assert "deletionTimestamp" not in kube.object()["metadata"]
    kube.time = begun + timedelta(seconds=30)
    kube.backend().stop(NAME)  # in any process: since when it was asked is written on the object
    assert "deletionTimestamp" in kube.object()["metadata"]


def test_a_job_that_was_asked_and_failed_has_been_stopped(kube: Kube, silent: str) -> None:
    backend = kube.submitted(jobDeploymentStatus="Running", jobStatus="RUNNING", dashboardURL=silent)
    with pytest.raises(UnreachableBackendError):
        backend.stop(NAME)
    kube.api.set_status(NAME, jobDeploymentStatus="Failed", jobStatus="FAILED", message="failed with exit code 1")
    assert backend.look(NAME) == Answer("stopped", 1, "failed with exit code 1")


def test_a_job_that_waits_is_ended_with_what_kuberay_made_for_it(kube: Kube, ray_head: RayHead, job_id: str) -> None:
    backend = kube.backend(token=ray_head.token)
    with operated(kube.api, ray_head) as operator:
        operator.ready = False
        backend.submit(job_id, shell("true"))
        until(lambda: kube.api.listed("rayclusters") != [])
        backend.stop(job_id)
        until(lambda: backend.look(job_id) == Answer("absent"))
    assert kube.api.listed("rayclusters") == []


def test_a_log_is_empty_before_there_is_a_head_and_when_its_cluster_is_gone(kube: Kube, silent: str) -> None:
    backend = kube.submitted(jobDeploymentStatus="Initializing")
    assert backend.log(NAME, 7) == LogPart(b"", 7)
    ended = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    kube.api.set_status(NAME, **ended, dashboardURL=silent, rayClusterName="cluster")
    kube.with_cluster()
    with pytest.raises(UnreachableBackendError):
        backend.log(NAME, 7)
    kube.api.delete("rayclusters", "cluster")
    assert backend.log(NAME, 7) == LogPart(b"", 7)


def test_a_job_has_ended_for_good_when_its_cluster_is_taken_away(
    kube: Kube, ray_head: RayHead, job_id: str, tmp_path: Path
) -> None:
    content = yaml.safe_load(RAYJOB.read_text())
    content["spec"]["ttlSecondsAfterFinished"] = 0
    jobs = RayJobs(NAMESPACE, kubeconfig=kube.api.kubeconfig(tmp_path))
    backend = KubeRayBackend(Template(content, source="it"), jobs, ray_head.token)
    with operated(kube.api, ray_head):
        backend.submit(job_id, shell("echo told; exit 3"))
        answer = end_of(backend, job_id)
        assert b"told\n" in log_of(backend, job_id)
        until(lambda: kube.api.listed("rayclusters") == [])
    assert (answer.status, answer.exit_code) == ("failed", 3)
    assert backend.look(job_id) == answer
    assert backend.submit(job_id, shell("true")) is False


def test_only_what_has_ended_is_forgotten_and_only_ours_is_listed(kube: Kube) -> None:
    backend = kube.submitted(jobDeploymentStatus="Running", jobStatus="RUNNING")
    for number in range(2, 6):  # more than one page of them
        backend.submit(f"photos-a{number}", JOB)
    foreign = {**kube.object(), "metadata": {"name": "foreign"}}
    kube.api.create("rayjobs", foreign)
    assert backend.kept() == [f"photos-a{number}" for number in range(1, 6)]
    backend.forget(NAME)
    assert backend.look(NAME) == Answer("running")
    kube.api.set_status(NAME, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    backend.forget(NAME)
    kube.api.change("rayjobs", NAME, lambda found: found["metadata"].update(finalizers=[]))
    backend.forget(NAME)
    assert backend.look(NAME) == Answer("absent")
