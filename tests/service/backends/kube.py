"""A Kubernetes in which nobody but the test plays KubeRay, and backends that use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from service.backends.base import Backend, Job
from service.backends.kuberay import KubeRayBackend
from service.backends.kuberay_api import RayJobs
from service.backends.kuberay_manifest import Template
from tests.service.backends.kube_api import NAMESPACE, KubeApi
from tests.service.backends.places import RAYJOB

JOB = Job(["python", "-m", "jobs.pretrain", "it's"], {"RECO": "1"}, {"run": "run1", "owner": "ada"})
NAME = "photos-a1"
GIVEN_UP = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "RUNNING",
    "reason": "JobStatusCheckTimeoutExceeded",
    "message": "the dashboard did not answer for 300 s",
    "rayClusterName": "cluster",
}
"""What KubeRay says of a job that it has lost sight of."""


@dataclass
class Kube:
    """A Kubernetes in which nobody but the test plays KubeRay, and a backend with a clock that the test moves."""

    api: KubeApi
    folder: Path
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def backend(self, *, namespace: str = NAMESPACE, token: str | None = None, timeout_s: float = 10.0) -> Backend:
        jobs = RayJobs(namespace, kubeconfig=self.api.kubeconfig(self.folder), timeout_s=timeout_s)
        return KubeRayBackend(Template.read(RAYJOB), jobs, token, timeout_s=2, clock=lambda: self.time)

    def submitted(self, *, token: str | None = None, **status: object) -> Backend:
        """A backend after one job was submitted and KubeRay has said this of it."""
        backend = self.backend(token=token)
        assert backend.submit(NAME, JOB) is True
        self.api.set_status(NAME, **status)
        return backend

    def with_cluster(self) -> None:
        spec = yaml.safe_load(RAYJOB.read_text())["spec"]["rayClusterSpec"]
        self.api.create("rayclusters", {"kind": "RayCluster", "metadata": {"name": "cluster"}, "spec": spec})

    def object(self) -> dict[str, Any]:
        found = self.api.get("rayjobs", NAME)
        assert found is not None
        return found
