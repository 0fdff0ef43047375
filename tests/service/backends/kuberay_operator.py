"""What KubeRay 1.7 does with RayJobs in HTTPMode, over one Ray head that all their clusters share."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import urllib3
import yaml

from tests.service.backends.kube_api import FOREGROUND, KubeApi, Object, now
from tests.service.backends.ray_head import RayHead

_FINALIZER = "ray.io/rayjob-finalizer"
_POLL_S = 0.03
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class KubeRay:
    """The operator: one step for each RayJob, again and again.

    Attributes:
        ready: Whether clusters get a head; without, jobs stay pending.
        failure: What ended it, if something did.
    """

    def __init__(self, api: KubeApi, head: RayHead) -> None:
        self._api, self._head = api, head
        self._http = urllib3.PoolManager(headers={"Authorization": f"Bearer {head.token}"})
        self.ready = True
        self.failure: Exception | None = None

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        try:
            while not stop.wait(_POLL_S):
                for job in self._api.listed("rayjobs"):
                    self._step(job, job["metadata"]["name"], job.get("status") or {})
        except Exception as error:  # noqa: BLE001 - told to who waits for the thread
            self.failure = error

    def _step(self, job: Object, name: str, status: Object) -> None:
        if "deletionTimestamp" in job["metadata"]:
            self._finish_deletion(job, name, status)
            return
        suspend = job["spec"].get("suspend", False)
        match status.get("jobDeploymentStatus", ""):
            case "":
                self._finalizers(name, add=_FINALIZER)
                begun = {"jobId": job["spec"]["jobId"], "rayClusterName": f"{name}-abcde", "startTime": now()}
                self._api.set_status(name, **begun, jobStatus="", jobDeploymentStatus="Initializing")
            case "Initializing" | "Running" if suspend:
                self._api.set_status(name, jobDeploymentStatus="Suspending")
            case "Initializing":
                self._make_cluster(job, status["rayClusterName"])
                if self.ready:
                    address = self._head.address.removeprefix("http://")
                    self._api.set_status(name, dashboardURL=address, jobDeploymentStatus="Running")
            case "Running":
                self._watch(job, name, status)
            case "Suspending" if self._end_cluster(status):
                reset = dict.fromkeys(("jobId", "jobStatus", "rayClusterName", "dashboardURL", "message", "reason"), "")
                self._api.set_status(name, **reset, jobDeploymentStatus="Suspended")
            case "Suspended" if not suspend:
                self._api.set_status(name, jobDeploymentStatus="")
            case "Complete" | "Failed":
                ended = datetime.fromisoformat(status["endTime"])
                if (datetime.now(UTC) - ended).total_seconds() >= job["spec"].get("ttlSecondsAfterFinished", 0):
                    self._end_cluster(status)

    def _watch(self, job: Object, name: str, status: Object) -> None:
        found = self._ask("GET", status["jobId"])
        if found is None:
            self._submit(job["spec"], status["jobId"])
            return
        seen = {"jobStatus": found["status"], "message": found["message"] or "", "jobDeploymentStatus": "Running"}
        if found["status"] in _ENDED:
            failed = found["status"] == "FAILED"
            seen |= {"jobDeploymentStatus": "Failed" if failed else "Complete", "endTime": now()}
            seen |= {"reason": "AppFailed"} if failed else {}
        if any(status.get(key) != value for key, value in seen.items()):
            self._api.set_status(name, **seen)

    def _submit(self, spec: Object, job_id: str) -> None:
        asked = {"submission_id": job_id, "entrypoint": spec["entrypoint"], "metadata": spec.get("metadata", {})}
        asked["runtime_env"] = yaml.safe_load(spec.get("runtimeEnvYAML", "{}"))
        if "entrypointNumCpus" in spec:
            asked["entrypoint_num_cpus"] = spec["entrypointNumCpus"]
        self._ask("POST", "", asked)

    def _make_cluster(self, job: Object, name: str) -> None:
        if self._api.get("rayclusters", name) is None:
            spec = job["spec"]["rayClusterSpec"]
            made = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}, "spec": spec}
            self._api.create("rayclusters", made)

    def _end_cluster(self, status: Object) -> bool:
        """Take a cluster away with the pods, and what runs in them; whether it is gone."""
        if status.get("dashboardURL") and status.get("jobId"):
            found = self._ask("GET", status["jobId"])
            if found is not None and found["status"] not in _ENDED:
                self._ask("POST", f"{status['jobId']}/stop")
                return False
        self._api.delete("rayclusters", status.get("rayClusterName", ""))
        return True

    def _finish_deletion(self, job: Object, name: str, status: Object) -> None:
        if _FINALIZER in job["metadata"].get("finalizers", []):
            self._finalizers(name, drop=_FINALIZER)
        elif self._end_cluster(status):  # the garbage collector's part
            self._finalizers(name, drop=FOREGROUND)

    def _finalizers(self, name: str, *, add: str = "", drop: str = "") -> None:
        def change(found: Object) -> None:
            kept = [finalizer for finalizer in found["metadata"].get("finalizers", []) if finalizer not in (add, drop)]
            found["metadata"]["finalizers"] = [*kept, add] if add else kept

        self._api.change("rayjobs", name, change)

    def _ask(self, method: str, path: str, body: Object | None = None) -> Any:  # noqa: ANN401 - as Ray says
        answer = self._http.request(method, f"{self._head.address}/api/jobs/{path}", json=body)
        if answer.status == 404:
            return None
        assert answer.status == 200, answer.data
        return json.loads(answer.data)


@contextlib.contextmanager
def operated(api: KubeApi, head: RayHead) -> Iterator[KubeRay]:
    """KubeRay at work, as long as the context lasts."""
    operator, stop = KubeRay(api, head), threading.Event()
    thread = threading.Thread(target=operator.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield operator
    finally:
        stop.set()
        thread.join(30)
    if operator.failure is not None:
        raise operator.failure
