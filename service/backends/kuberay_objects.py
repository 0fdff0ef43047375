"""RayJobs as KubeRay writes them, and what they say of a job."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from service.backends.base import Answer
from service.backends.kuberay_manifest import ASKED, QUEUE_LABEL

_EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
_LOG_TAIL = ", last available logs"
_NOTHING_RAN = ("ValidationFailed", "SubmissionFailed", "PreRunningDeadlineExceeded")
_OUT_OF_SIGHT = "JobStatusCheckTimeoutExceeded"


class Metadata(BaseModel):
    """What Kubernetes says of any object, as far as it is read here."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: datetime | None = Field(default=None, alias="deletionTimestamp")


class Spec(BaseModel):
    """What was asked for."""

    job_id: str = Field(default="", alias="jobId")


class JobStatus(BaseModel):
    """How a RayJob is, as KubeRay says.

    Attributes:
        job: What Ray last said of the job; empty while it has not been asked.
        deployment: How far KubeRay is with it; empty while it has not seen it.
        reason: Why the deployment failed.
        message: Of Ray or KubeRay.
        dashboard: Where Ray's job server is, as HOST:PORT; empty while there is none.
        cluster: Name of the RayCluster.
    """

    job: Literal["", "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"] = Field(default="", alias="jobStatus")
    deployment: str = Field(default="", alias="jobDeploymentStatus")
    reason: str = ""
    message: str = ""
    dashboard: str = Field(default="", alias="dashboardURL")
    cluster: str = Field(default="", alias="rayClusterName")


class RayJob(BaseModel):
    """A RayJob, as far as it is read here."""

    kind: Literal["RayJob"]
    metadata: Metadata
    spec: Spec
    status: JobStatus = JobStatus()

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted: it is there until its last pod has ended."""
        return self.metadata.deletion_timestamp is not None

    @property
    def asked(self) -> datetime | None:
        """When its job was first asked to end."""
        try:
            asked = datetime.fromisoformat(self.metadata.annotations.get(ASKED, ""))
        except ValueError:
            return None
        return asked if asked.tzinfo is not None else None

    @property
    def given_up(self) -> bool:
        """Whether KubeRay has given up on the job, which says nothing of the job itself."""
        return self.ended is None and self.status.deployment == "Failed"

    @property
    def out_of_sight(self) -> bool:
        """Whether that was because its head did not answer."""
        return self.status.reason == _OUT_OF_SIGHT

    @property
    def ended(self) -> Answer | None:
        """How the job ended, where KubeRay repeats what Ray said, or says that nothing was started; None otherwise."""
        match self.status.job:
            case "SUCCEEDED":
                return Answer("succeeded", 0)
            case "STOPPED":
                return Answer("stopped")
            case "FAILED":
                code = _EXIT_CODE.search(self.status.message)
                return Answer("failed", None if code is None else int(code[1]), self.words)
        failed = self.status.deployment == "Failed" and self.status.reason in _NOTHING_RAN
        if failed or self.status.deployment == "ValidationFailed":
            return Answer("failed", words=self.words)
        return None

    @property
    def words(self) -> str:
        """Why it failed, in a line and without the job's log."""
        said = " ".join(self.status.message.split(_LOG_TAIL)[0].split())
        return ": ".join(part for part in (self.status.reason, said) if part)[:500]

    @property
    def waits_for(self) -> str:
        """Why a job that has not ended does not run yet."""
        match self.status.deployment:
            case "":
                return "KubeRay has not taken it up yet"
            case "Suspended" | "Suspending":
                queue = self.metadata.labels.get(QUEUE_LABEL)
                return f"it waits in the queue {queue}" if queue else "it is suspended"
            case "Initializing":
                return "its Ray cluster is being made"
            case _:
                return "its Ray cluster is about to start it"
