"""Jobs on Kubernetes, each with a Ray cluster of its own, which KubeRay makes and takes away again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from service.backends.base import Answer, Backend, BackendError, Job, LogPart, UnreachableBackendError
from service.backends.kuberay_api import RayJobs
from service.backends.kuberay_manifest import ASKED, Template, object_name
from service.backends.kuberay_objects import RayJob
from service.backends.ray_jobs import RayJobsBackend


def _now() -> datetime:
    return datetime.now(UTC)


class KubeRayBackend(Backend):
    """Each job is a `RayJob` object of its own: KubeRay makes a Ray cluster, hands it the job, and says how it is.

    The object is made from a template, so what a cluster looks like (images, groups of workers, volumes, secrets, the
    label of a Kueue queue) is for the template to say. A job puts in its command, variables and metadata, which
    everybody can read who may read RayJobs. The submission id is `spec.jobId`, so that Ray, too, takes it once; the
    object's name is made from it (`object_name`). The object stays when the job has ended, and with it the id is taken
    and the answer is the same, until it is forgotten. KubeRay takes away its cluster `ttlSecondsAfterFinished` later,
    and the log with it. (So KubeRay must not be told to delete RayJobs that finish.) Whoever deletes the object ends
    the job, which is then `absent`.

    What KubeRay says is believed where it repeats what Ray said of the job, or that nothing was started. That *KubeRay*
    gives up on a job, mostly because the head did not answer it for five minutes, is no end of the job: the driver may
    train on until the cluster is deleted. Then the head is asked, and of a job whose head does not answer nobody
    can say how it is; only when its RayCluster is gone it has lost its host.

    KubeRay, too, starts a job again under its id: where its head was replaced, or Kueue evicted it and admits it again.
    For this backend that is still the same job, pending or running; it goes on from its checkpoint, in a new log. What
    that log holds up to where the old one had been read to is left out: nothing tells the two apart.

    To end a job its head is asked, as any Ray job server: the job hears SIGTERM and saves. One that has no head yet, or
    whose head stays silent for the grace period, is deleted, the only way that holds also while Kueue decides what is
    suspended. So the head has to be reachable from here under the name that KubeRay gives: `HEAD-SERVICE.NAMESPACE.svc`
    inside the cluster.

    The service account needs create, get, list, patch and delete on `rayjobs`, and get on `rayclusters`.

    Args:
        template: What RayJobs are made of.
        jobs: Where they are made.
        token: What Ray wants where its token authentication is on; the template's `authOptions.secretName` is to name a
            secret that holds the same.
        timeout_s: How long a head may stay silent.
        grace_s: How long a job may take to end when it is asked to, and its head to answer.
        clock: What time it is.
        place: Where its jobs are, in other words than Kubernetes' address and the namespace.
    """

    name: ClassVar[str] = "kuberay"

    def __init__(
        self,
        template: Template,
        jobs: RayJobs,
        token: str | None = None,
        *,
        timeout_s: float = 10.0,
        grace_s: float = 30.0,
        clock: Callable[[], datetime] = _now,
        place: str | None = None,
    ) -> None:
        self._template, self._jobs, self._token = template, jobs, token
        self._timeout_s, self._grace_s, self._clock = timeout_s, grace_s, clock
        self._place = place or f"{self.name}:{jobs.host}/{jobs.namespace}"

    @property
    def place(self) -> str:
        """See `Backend.place`."""
        return self._place

    def submit(self, submission_id: str, job: Job) -> bool:
        """See `Backend.submit`."""
        manifest = self._template.filled(submission_id, job, namespace=self._jobs.namespace, grace_s=self._grace_s)
        if self._jobs.create(manifest):
            return True
        if self._found(submission_id) is None:
            raise UnreachableBackendError(f"Kubernetes has a RayJob for {submission_id} and does not show it.")
        return False

    def look(self, submission_id: str) -> Answer:
        """See `Backend.look`."""
        found = self._found(submission_id)
        if found is None:
            return Answer("absent")
        answer = self._answer(found, submission_id)
        # Of its own accord, Ray says STOPPED. This is for one that was ended otherwise: it was asked all the same.
        return replace(answer, status="stopped") if answer.status == "failed" and found.asked else answer

    def stop(self, submission_id: str) -> None:
        """See `Backend.stop`."""
        found = self._found(submission_id)
        if found is None or found.leaving or found.ended is not None:
            return
        if found.given_up and not self._jobs.has_cluster(found.status.cluster):
            return
        try:
            answer = self._head(found).look(submission_id) if found.status.dashboard else Answer("absent")
        except (UnreachableBackendError, BackendError):
            if self._clock() - self._since_asked(found, submission_id) < timedelta(seconds=self._grace_s):
                raise
            # KubeRay would not wait for its head either: it deletes the pods, whose own grace is in the template.
            self._jobs.delete(object_name(submission_id))
            return
        if answer.status == "absent":  # its head is still to come, or about to be handed the job
            self._since_asked(found, submission_id)
            self._jobs.delete(object_name(submission_id))
        elif not answer.ended:  # KubeRay may not have told its end yet
            self._since_asked(found, submission_id)
            self._head(found).stop(submission_id)

    def log(self, submission_id: str, offset: int) -> LogPart:
        """See `Backend.log`."""
        found = self._found(submission_id)
        if found is None or not found.status.dashboard:
            return LogPart(b"", offset)
        try:
            return self._head(found).log(submission_id, offset)
        except UnreachableBackendError:
            if self._jobs.has_cluster(found.status.cluster):
                raise
            return LogPart(b"", offset)  # gone with its head

    def kept(self) -> list[str]:
        """See `Backend.kept`."""
        return sorted(self._jobs.ids())

    def forget(self, submission_id: str) -> None:
        """See `Backend.forget`."""
        found = self._found(submission_id)
        if found is not None and self._answer(found, submission_id).ended:
            self._jobs.delete(object_name(submission_id))

    def _found(self, submission_id: str) -> RayJob | None:
        found = self._jobs.read(object_name(submission_id))
        if found is not None and found.spec.job_id != submission_id:
            raise BackendError(
                f"The RayJob {object_name(submission_id)} in {self._jobs.namespace} is not that of {submission_id}.",
                hint="Somebody else made it: give the service a namespace of its own.",
            )
        return found

    def _since_asked(self, found: RayJob, submission_id: str) -> datetime:
        """When a job was first asked to end; noted where this is the first time."""
        if found.asked is not None:
            return found.asked
        now = self._clock()
        self._jobs.annotate(object_name(submission_id), {ASKED: now.isoformat()})
        return now

    def _head(self, found: RayJob) -> RayJobsBackend:
        address = found.status.dashboard
        address = address if "://" in address else f"http://{address}"
        return RayJobsBackend(address, self._token, timeout_s=self._timeout_s, grace_s=self._grace_s)

    def _answer(self, found: RayJob, submission_id: str) -> Answer:
        if found.ended is not None:
            return found.ended
        if found.given_up:
            return self._given_up(found, submission_id)
        leaving = "it is being deleted" if found.leaving else ""
        if found.status.job == "RUNNING":
            return Answer("running", words=leaving)
        return Answer("pending", words=leaving or found.waits_for)

    def _given_up(self, found: RayJob, submission_id: str) -> Answer:
        """Of a job that KubeRay gave up on: it may train all the same, and until its cluster is deleted.

        Raises:
            BackendError: Nobody can say. Not `UnreachableBackendError`: of other jobs the answers are as good as ever.
        """
        why = found.words
        if not self._jobs.has_cluster(found.status.cluster):
            return Answer("failed", words=f"it lost its host: {why}" if found.out_of_sight else why)
        if not found.status.dashboard:
            return Answer("failed", words=why)  # there was never a head that could have been handed the job
        try:
            answer = self._head(found).look(submission_id)
        except UnreachableBackendError as error:
            raise BackendError(
                f"KubeRay has given up on {submission_id} ({why}), and its head does not answer.",
                hint="It may train all the same, until KubeRay deletes its cluster.",
            ) from error
        if answer.status == "absent":
            return Answer("failed", words=f"it lost its host, and the new one does not have it: {why}")
        return answer if answer.ended else replace(answer, words=f"KubeRay has given up on it: {why}")
