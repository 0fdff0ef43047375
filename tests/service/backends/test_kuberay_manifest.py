"""What becomes a RayJob: templates, what a job puts into them, and what its object is called."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UserError
from service.backends.base import BackendError, Job
from service.backends.kuberay import KubeRayBackend
from service.backends.kuberay_api import RayJobs
from service.backends.kuberay_manifest import Template, object_name
from tests.service.backends.kube import JOB, NAME, Kube
from tests.service.backends.kube_api import NAMESPACE
from tests.service.backends.places import RAYJOB


def test_a_job_becomes_the_template_with_what_is_its_own(kube: Kube) -> None:
    assert kube.backend().submit(NAME, Job(JOB.command, JOB.environment, JOB.metadata, cpus=2)) is True
    made, template = kube.object(), yaml.safe_load(RAYJOB.read_text())
    spec = made["spec"]
    assert spec.pop("rayClusterSpec") == template["spec"]["rayClusterSpec"]
    runtime = yaml.safe_load(spec.pop("runtimeEnvYAML"))
    assert runtime == {"env_vars": {"RECO": "1", "RAY_JOB_STOP_WAIT_TIME_S": "30"}}
    assert spec == {
        "jobId": NAME,
        "entrypoint": "exec python -m jobs.pretrain 'it'\"'\"'s'",
        "entrypointNumCpus": 2,
        "metadata": JOB.metadata,
        "submissionMode": "HTTPMode",
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 300,
    }
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert made["metadata"]["annotations"] == {"reco-training/run": "run1", "reco-training/owner": "ada"}


def test_what_the_service_knows_by_itself_is_not_in_the_object(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-the-service")
    kube.backend(token="hunter2-of-ray").submit(NAME, JOB)
    assert "hunter2" not in str(kube.object())
    assert kube.api.token not in str(kube.object())


def test_a_template_keeps_its_runtime_environment_and_is_left_as_it_is(kube: Kube) -> None:
    content = yaml.safe_load(RAYJOB.read_text())
    content["spec"]["runtimeEnvYAML"] = "working_dir: /reco\nenv_vars: {FROM: template, RECO: '0'}\n"
    template = Template(copy.deepcopy(content), source="it")
    first = template.filled("a-a1", JOB, namespace="x", grace_s=5)
    second = template.filled("b-a1", Job(["true"]), namespace="x", grace_s=5)
    stop = {"RAY_JOB_STOP_WAIT_TIME_S": "5"}
    assert yaml.safe_load(first["spec"]["runtimeEnvYAML"]) == {
        "working_dir": "/reco",
        "env_vars": {"FROM": "template", "RECO": "1", **stop},
    }
    assert yaml.safe_load(second["spec"]["runtimeEnvYAML"])["env_vars"] == {"FROM": "template", "RECO": "0", **stop}
    assert "entrypointNumCpus" not in second["spec"]


def test_every_mistake_in_a_template_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rayjob.yaml"
    spec = {
        "entrypoint": "x",
        "submissionMode": "K8sJobMode",
        "backoffLimit": 2,
        "suspend": True,
        "runtimeEnvYAML": "[",
    }
    path.write_text(yaml.safe_dump({"apiVersion": "batch/v1", "kind": "Job", "spec": spec}))
    with pytest.raises(UserError) as caught:
        Template.read(path)
    for words in (
        str(path),
        "RayJob",
        "rayClusterSpec",
        "entrypoint",
        "HTTPMode",
        "backoffLimit",
        "suspend",
        "env_vars",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a list", "{", "kind: RayJob"])
def test_a_file_that_is_no_template_is_a_users_mistake(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rayjob.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"rayjob\.yaml"):
        Template.read(path)
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        Template.read(tmp_path / "nowhere.yaml")


@given(
    st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", fullmatch=True), min_size=2, max_size=2, unique=True)
)
def test_every_id_has_a_name_of_its_own_that_kuberay_takes(ids: list[str]) -> None:
    names = [object_name(each) for each in ids]
    assert names[0] != names[1]
    for name in names:
        assert len(name) <= 47
        assert name[0].isalpha()
        assert name[-1] != "-"
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert object_name(name) != name or "--" not in name  # so no id is the hashed name of another one


def test_an_id_that_can_be_a_name_is_it_and_another_stays_readable() -> None:
    assert object_name("photos-20261123-2210-a1") == "photos-20261123-2210-a1"
    assert object_name("Photos_V2-20261123-2210-a1").startswith("photos-v2-20261123-2210-a--")
    assert object_name("a" * 24 + "-" + "b" * 40).replace("a" * 24 + "--", "").isalnum()
    for wrong in ("", "-a", "a b", "a/b", "x" * 201):
        with pytest.raises(BackendError, match="cannot be the id"):
            object_name(wrong)


@pytest.mark.shared
def test_objects_are_valid_by_kuberays_own_definitions(kube: Kube, crds: Path | None, tmp_path: Path) -> None:
    if crds is None:
        pytest.skip("RECO_CRDS is not set: it names the folder with KubeRay's resource definitions")
    assert kube.backend().submit(NAME, Job(JOB.command, JOB.environment, JOB.metadata, cpus=0.5)) is True
    misspelt = RAYJOB.read_text().replace("securityContext", "securityContex", 1)
    jobs = RayJobs(NAMESPACE, kubeconfig=kube.api.kubeconfig(tmp_path))
    with pytest.raises(BackendError, match="securityContex"):
        KubeRayBackend(Template(yaml.safe_load(misspelt), source="it"), jobs).submit("run2-a1", JOB)
    wrong = RAYJOB.read_text().replace("replicas: 2", "replicas: two", 1)
    with pytest.raises(BackendError, match="'two' is not of type"):
        KubeRayBackend(Template(yaml.safe_load(wrong), source="it"), jobs).submit("run2-a1", JOB)
