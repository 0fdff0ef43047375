"""The RayJob of a job: a template that the operators of a cluster write, and what each job puts into it."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from jobs.errors import UserError
from service.backends.base import BackendError, Job

Manifest: TypeAlias = dict[str, Any]
"""An object of Kubernetes, as its API takes it."""

API_VERSION, KIND = "ray.io/v1", "RayJob"
OWN_PREFIX = "reco-training/"
"""Of the annotations that this service makes."""
ASKED = f"{OWN_PREFIX}asked-to-stop"
"""The one that says when a job was first asked to end."""
OURS_LABEL = ("app.kubernetes.io/managed-by", "reco")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LONGEST_NAME = 47  # KubeRay refuses longer ones: names of pods and services are made of it
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # as services have it (RFC 1035): their names begin with it
_HASHED = "--"
_TTL_S = 120
_HTTP_MODE = "HTTPMode"


def object_name(submission_id: str) -> str:
    """The name of a job's RayJob: its id where that can be one, else a readable part of it and a hash.

    No two ids have one name: `--` stands before a hash and nowhere else.

    Raises:
        BackendError: The id cannot be one.
    """
    if not _ID.fullmatch(submission_id):
        raise BackendError(
            f"{submission_id!r} cannot be the id of a job.",
            hint="Use up to 200 letters, digits, dots, underscores and dashes, a letter or digit first.",
        )
    if len(submission_id) <= _LONGEST_NAME and _HASHED not in submission_id and _LABEL.fullmatch(submission_id):
        return submission_id
    ending = f"{_HASHED}{hashlib.sha256(submission_id.encode()).hexdigest()[:20]}"
    readable = re.sub(r"[^a-z0-9]+", "-", submission_id.lower()).lstrip("-0123456789")
    return (readable[: _LONGEST_NAME - len(ending)].rstrip("-") or "job") + ending


class Template:
    """A RayJob without what a job brings itself.

    Args:
        content: It, as read from YAML.
        source: Where it comes from, for errors.

    Raises:
        UserError: It has mistakes; all of them are told.
    """

    def __init__(self, content: object, *, source: str) -> None:
        mistakes = _mistakes(content)
        if mistakes or not isinstance(content, dict):
            raise UserError(
                f"{source} is no template of a RayJob: {'; '.join(mistakes)}.",
                hint="It is a RayJob as `kubectl create` takes it, without what each job brings itself.",
            )
        self._content: Manifest = content

    @classmethod
    def read(cls, path: Path) -> Template:
        """Read one from a YAML file.

        Raises:
            UserError: It cannot be read, or has mistakes.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(
                f"the template of RayJobs cannot be read: {path}: {' '.join(str(error).split())}",
                hint="RECO_KUBERAY_TEMPLATE names a YAML file that holds one RayJob.",
            ) from error
        return cls(content, source=str(path))

    def filled(self, submission_id: str, job: Job, *, namespace: str, grace_s: float) -> Manifest:
        """The RayJob of a job.

        Raises:
            BackendError: The id cannot be one.
        """
        manifest = copy.deepcopy(self._content)
        metadata, spec = manifest.setdefault("metadata", {}), manifest["spec"]
        metadata.pop("generateName", None)
        metadata["name"], metadata["namespace"] = object_name(submission_id), namespace
        metadata["labels"] = {**(metadata.get("labels") or {}), **dict([OURS_LABEL])}
        about = {f"{OWN_PREFIX}{key}": value for key, value in job.metadata.items()}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **about}
        spec["jobId"] = submission_id
        # A shell runs it; `exec` makes exit code and signals those of the program rather than of the shell.
        spec["entrypoint"] = f"exec {shlex.join(job.command)}"
        spec["metadata"] = {**(spec.get("metadata") or {}), **job.metadata}
        if job.cpus:
            spec["entrypointNumCpus"] = job.cpus
        # The driver is to get them, wherever Ray places it, and so are the workers it starts: containers' variables,
        # of the head or of a group, would miss some. Secrets are the containers' own, by the template's `secretKeyRef`.
        runtime = _runtime_env(spec) or {}
        given = {**job.environment, "RAY_JOB_STOP_WAIT_TIME_S": str(max(1, round(grace_s)))}
        runtime["env_vars"] = {**(runtime.get("env_vars") or {}), **given}
        spec["runtimeEnvYAML"] = json.dumps(runtime)  # JSON is YAML in which no string can be taken for a number
        # The others infer a job's end from the end of its log stream, which ends whenever a proxy restarts.
        spec["submissionMode"] = _HTTP_MODE
        # Whether to try again is for the service to say, which knows why an attempt ended; and only it counts them.
        spec["backoffLimit"] = 0
        spec["shutdownAfterJobFinishes"] = True  # Kueue wants it, too
        # The log is on the head. The leader copies it every few seconds; but as long as the cluster stays for what is
        # left, its GPUs are kept from the next attempt.
        spec.setdefault("ttlSecondsAfterFinished", _TTL_S)
        return manifest


def _mistakes(content: object) -> list[str]:
    if not isinstance(content, dict):
        return ["it holds no object"]
    found = []
    if (content.get("apiVersion"), content.get("kind")) != (API_VERSION, KIND):
        found.append(f"apiVersion and kind have to be {API_VERSION} and {KIND}")
    if not isinstance(content.get("metadata") or {}, dict):
        found.append("metadata has to be a mapping")
    spec = content.get("spec")
    if not isinstance(spec, dict):
        return [*found, "it has no spec"]
    if not isinstance(spec.get("rayClusterSpec"), dict):
        found.append("spec.rayClusterSpec has to say what cluster a job gets")
    for name, (allowed, why) in _OURS.items():
        if name in spec and not allowed(spec[name]):
            found.append(f"spec.{name} {why}")
    if _runtime_env(spec) is None:
        found.append("spec.runtimeEnvYAML has to hold a mapping, and env_vars in it one, too")
    return found


def _runtime_env(spec: Mapping[str, Any]) -> Manifest | None:
    """What the template says of the runtime environment; None where that is none."""
    try:
        runtime = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}")
    except (yaml.YAMLError, AttributeError):  # the latter where it is no text
        return None
    return runtime if isinstance(runtime, dict) and isinstance(runtime.get("env_vars") or {}, dict) else None


def _never(_: object) -> bool:
    return False


_OURS: dict[str, tuple[Callable[[object], bool], str]] = {
    "entrypoint": (_never, "is what each job brings itself"),
    "jobId": (_never, "is what each job brings itself"),
    "submissionMode": (lambda value: value == _HTTP_MODE, f"has to be {_HTTP_MODE}, or left out"),
    "backoffLimit": (lambda value: value == 0, "has to be 0, or left out: the service itself tries again"),
    "shutdownAfterJobFinishes": (lambda value: value is True, "has to be true, or left out"),
    "suspend": (_never, "is for Kueue to say"),
    "clusterSelector": (_never, "would share a cluster between jobs: for that, RECO_BACKEND is ray"),
    "deletionStrategy": (_never, "excludes shutdownAfterJobFinishes: say ttlSecondsAfterFinished instead"),
}
