"""Who refuses what of KubeRay's backend, and what silence means: rights, tokens, outages, lost answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobs.errors import UserError
from service.backends.base import Backend, BackendError, UnreachableBackendError
from service.backends.configured import configured
from service.backends.kuberay import KubeRayBackend
from service.backends.kuberay_api import RayJobs
from service.backends.kuberay_manifest import Template
from service.settings import Settings
from tests.s3 import free_port
from tests.service.backends.kube import GIVEN_UP, JOB, NAME, Kube
from tests.service.backends.kube_api import NAMESPACE, Outage, RefusedError, forbidden
from tests.service.backends.places import RAYJOB

CALLS: dict[str, Callable[[Backend], object]] = {
    "submit": lambda backend: backend.submit(NAME, JOB),
    "look": lambda backend: backend.look(NAME),
    "stop": lambda backend: backend.stop(NAME),
    "log": lambda backend: backend.log(NAME, 0),
    "kept": lambda backend: backend.kept(),
    "forget": lambda backend: backend.forget(NAME),
}


@pytest.mark.parametrize(
    ("call", "verb", "plural"),
    [
        ("submit", "create", "rayjobs"),
        ("look", "get", "rayjobs"),
        ("stop", "patch", "rayjobs"),
        ("stop", "delete", "rayjobs"),
        ("log", "get", "rayjobs"),
        ("kept", "list", "rayjobs"),
        ("look", "get", "rayclusters"),
    ],
)
def test_a_right_that_is_missing_is_named(kube: Kube, call: str, verb: str, plural: str) -> None:
    said = GIVEN_UP if plural == "rayclusters" else {}
    backend = kube.backend() if call == "submit" else kube.submitted(**said)
    kube.api.refusals[verb, plural] = forbidden(verb, plural)
    with pytest.raises(BackendError, match="forbidden") as caught:
        CALLS[call](backend)
    assert f"the verb '{verb}' on {plural}.ray.io in the namespace {NAMESPACE}" in (caught.value.hint or "")


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_token_is_refused_with_what_to_look_at(kube: Kube, call: str) -> None:
    backend = kube.backend()
    kube.api.token = "another"
    with pytest.raises(BackendError, match="does not know this service") as caught:
        CALLS[call](backend)
    assert "kubeconfig" in (caught.value.hint or "")


@pytest.mark.parametrize("call", CALLS)
def test_a_cluster_without_kuberay_says_so_rather_than_that_the_job_is_absent(kube: Kube, call: str) -> None:
    kube.api.installed = False
    with pytest.raises(BackendError, match="KubeRay is not installed"):
        CALLS[call](kube.backend())


@pytest.mark.parametrize("outage", ["closed", "error", "page", "hang"])
@pytest.mark.parametrize("call", CALLS)
def test_no_answer_is_no_answer(kube: Kube, call: str, outage: Outage) -> None:
    backend = kube.backend(timeout_s=0.2 if outage == "hang" else 10.0)
    with kube.api.failing(outage), pytest.raises(UnreachableBackendError):
        CALLS[call](backend)


def test_a_server_that_is_not_there_is_unreachable(kube: Kube, tmp_path: Path) -> None:
    path = kube.api.kubeconfig(tmp_path, address=f"http://127.0.0.1:{free_port()}")
    backend = KubeRayBackend(Template.read(RAYJOB), RayJobs(NAMESPACE, kubeconfig=path))
    for call in CALLS.values():
        with pytest.raises(UnreachableBackendError, match="Kubernetes does not answer"):
            call(backend)


def test_a_submit_whose_answer_was_lost_is_repeated_without_a_second_job(kube: Kube) -> None:
    backend = kube.backend()
    for call in ("submit", "look"):
        with kube.api.failing("lost"), pytest.raises(UnreachableBackendError):
            CALLS[call](backend)
    assert [verb for verb, _ in kube.api.requests] == ["create", "get"], "the client itself repeats nothing"
    assert backend.submit(NAME, JOB) is False
    assert len(kube.api.listed("rayjobs")) == 1


def test_what_kubernetes_finds_wrong_is_told_and_not_asked_again(kube: Kube) -> None:
    words = 'RayJob.ray.io "photos-a1" is invalid: spec.backoffLimit: must be an integer'
    kube.api.refusals["create", "rayjobs"] = RefusedError(422, "Invalid", words)
    with pytest.raises(BackendError, match=r"spec\.backoffLimit"):
        kube.backend().submit(NAME, JOB)
    kube.api.refusals.clear()
    with pytest.raises(BackendError, match="no namespace 'elsewhere'") as caught:
        kube.backend(namespace="elsewhere").submit(NAME, JOB)
    assert "RECO_KUBERAY_NAMESPACE" in (caught.value.hint or "")


def test_a_quota_that_is_used_up_is_asked_again(kube: Kube) -> None:
    words = 'rayjobs.ray.io "photos-a1" is forbidden: exceeded quota: jobs, requested: count/rayjobs.ray.io=1'
    kube.api.refusals["create", "rayjobs"] = RefusedError(403, "Forbidden", words)
    with pytest.raises(UnreachableBackendError, match="exceeded quota"):
        kube.backend().submit(NAME, JOB)


@pytest.mark.parametrize(
    ("verb", "call", "code", "reason"),
    [
        ("get", "look", 429, "TooManyRequests"),
        ("create", "submit", 500, "InternalError"),
        ("create", "submit", 504, "Timeout"),
        ("patch", "stop", 409, "Conflict"),
    ],
)
def test_what_passes_is_asked_again(kube: Kube, verb: str, call: str, code: int, reason: str) -> None:
    backend = kube.backend() if call == "submit" else kube.submitted()
    kube.api.refusals[verb, "rayjobs"] = RefusedError(code, reason, "for now")
    with pytest.raises(UnreachableBackendError, match=f"{code}: for now"):
        CALLS[call](backend)


def test_somebody_elses_object_of_that_name_is_neither_answered_for_nor_touched(kube: Kube) -> None:
    backend = kube.submitted()
    kube.api.change("rayjobs", NAME, lambda found: found["spec"].update(jobId="their-own"))
    theirs = kube.object()
    for name in ("submit", "look", "stop", "log", "forget"):
        with pytest.raises(BackendError, match="is not that of photos-a1"):
            CALLS[name](backend)
    assert kube.object() == theirs


def test_where_kubernetes_is_comes_from_kubeconfig_before_the_pods_own_account(
    kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(UserError, match=r"nothing says where Kubernetes is: Service .*") as caught:
        RayJobs(NAMESPACE)
    assert "KUBECONFIG" in (caught.value.hint or "")
    monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig(tmp_path)))
    assert RayJobs(NAMESPACE).read(NAME) is None
    with pytest.raises(UserError, match="nothing says where Kubernetes is"):
        RayJobs(NAMESPACE, kubeconfig=tmp_path / "nowhere")


def test_the_settings_name_template_and_namespace(kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig(tmp_path)))
    told = {"RECO_HOME": str(tmp_path), "RECO_BACKEND": "kuberay", "RECO_KUBERAY_TEMPLATE": str(RAYJOB)}
    backends = configured(Settings.from_environment({**told, "RECO_KUBERAY_NAMESPACE": NAMESPACE}))
    assert list(backends) == ["kuberay", "local"]
    assert backends["kuberay"].place == f"kuberay:{urlsplit(kube.api.address).netloc}/{NAMESPACE}"
    assert backends["kuberay"].submit(NAME, JOB) is True
    assert kube.object()["spec"]["jobId"] == NAME
    with pytest.raises(UserError, match="template"):
        configured(Settings.from_environment({**told, "RECO_KUBERAY_TEMPLATE": "nowhere.yaml"}))


def test_who_only_imports_the_backend_does_not_import_kubernetes_ray_or_torch() -> None:
    code = "import sys, service.backends.kuberay; print({'kubernetes', 'ray', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
