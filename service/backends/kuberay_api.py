"""RayJobs in the API of Kubernetes: the few requests there are, and what its refusals mean.

The package `kubernetes` takes a quarter of a second to import, so only who makes a `RayJobs` does.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

import urllib3
from pydantic import BaseModel, Field, ValidationError

from jobs.errors import UserError
from service.backends.base import BackendError, UnreachableBackendError
from service.backends.kuberay_manifest import OURS_LABEL, Manifest
from service.backends.kuberay_objects import RayJob, Spec

if TYPE_CHECKING:
    from kubernetes.client import CustomObjectsApi
    from kubernetes.client.exceptions import ApiException

_GROUP, _VERSION, _JOBS, _CLUSTERS = "ray.io", "v1", "rayjobs", "rayclusters"
_PAGE = 200
_NO_ROOM = "exceeded quota"
_NO_RIGHT = " cannot "  # as in `User "…" cannot create resource "rayjobs"`


class _Item(BaseModel):
    spec: Spec


class _PageMetadata(BaseModel):
    next: str = Field(default="", alias="continue")


class _Page(BaseModel):
    kind: Literal["RayJobList"]
    items: list[_Item]
    metadata: _PageMetadata


_Read = TypeVar("_Read", RayJob, _Page)


class _Refusal(BaseModel):
    """The `Status` object that the API refuses a request with."""

    kind: Literal["Status"]
    message: str = ""
    reason: str = ""


class RayJobs:
    """The RayJobs of one namespace.

    Args:
        namespace: It.
        kubeconfig: How to reach Kubernetes. By default what KUBECONFIG names, else the service account of the pod that
            this runs in, else `~/.kube/config`.
        timeout_s: How long Kubernetes may stay silent.

    Raises:
        UserError: Nothing says where Kubernetes is.
    """

    def __init__(self, namespace: str, *, kubeconfig: Path | None = None, timeout_s: float = 10.0) -> None:
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._api = _connected(kubeconfig)

    @property
    def host(self) -> str:
        """Of Kubernetes, with the port where it is not the usual one."""
        return urlsplit(str(self._api.api_client.configuration.host)).netloc.rpartition("@")[2]

    def create(self, manifest: Manifest) -> bool:
        """Make one; False where there is one of that name.

        Raises:
            BackendError: It was refused.
            UnreachableBackendError: No answer; it may have been made all the same.
        """
        try:
            with self._asked("create", _JOBS):
                # Strict: a misspelt field of the template would otherwise be dropped without a word.
                made: object = self._api.create_namespaced_custom_object(
                    *self._of(_JOBS),
                    manifest,
                    field_validation="Strict",
                    _request_timeout=self._timeout_s,
                )
        except _ExistsError:
            return False
        except _NotFoundError as error:
            raise BackendError(
                f"Kubernetes has no namespace {self.namespace!r}.",
                hint="Make it, or name another one in RECO_KUBERAY_NAMESPACE.",
            ) from error
        _as(RayJob, made)
        return True

    def read(self, name: str) -> RayJob | None:
        """One of them; None where there is none of that name."""
        found = self._get(_JOBS, name)
        return None if found is None else _as(RayJob, found)

    def ids(self) -> list[str]:
        """The job ids of those that this service made."""
        found: list[str] = []
        after = ""
        while True:
            with self._asked("list", _JOBS):
                said: object = self._api.list_namespaced_custom_object(
                    *self._of(_JOBS),
                    label_selector="{}={}".format(*OURS_LABEL),
                    limit=_PAGE,
                    _continue=after,
                    _request_timeout=self._timeout_s,
                )
            page = _as(_Page, said)
            found += [item.spec.job_id for item in page.items]
            if not (after := page.metadata.next):
                return found

    def has_cluster(self, name: str) -> bool:
        """Whether a RayCluster is still there; one without a name never was."""
        return bool(name) and self._get(_CLUSTERS, name) is not None

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        """Write on one of them; nothing happens where there is none."""
        with contextlib.suppress(_NotFoundError), self._asked("patch", _JOBS):
            self._api.patch_namespaced_custom_object(
                *self._of(_JOBS),
                name,
                {"metadata": {"annotations": {**annotations}}},
                _content_type="application/merge-patch+json",
                _request_timeout=self._timeout_s,
            )

    def delete(self, name: str) -> None:
        """Have one deleted, which is there until the last pod of its cluster has ended."""
        with contextlib.suppress(_NotFoundError), self._asked("delete", _JOBS):
            self._api.delete_namespaced_custom_object(
                *self._of(_JOBS),
                name,
                propagation_policy="Foreground",
                _request_timeout=self._timeout_s,
            )

    def _of(self, plural: str) -> tuple[str, str, str, str]:
        return _GROUP, _VERSION, self.namespace, plural

    def _get(self, plural: str, name: str) -> object:
        with contextlib.suppress(_NotFoundError), self._asked("get", plural):
            found: object = self._api.get_namespaced_custom_object(
                *self._of(plural), name, _request_timeout=self._timeout_s
            )
            return found
        return None

    @contextlib.contextmanager
    def _asked(self, verb: str, plural: str) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException  # slow to import
        from kubernetes.config import ConfigException

        try:
            yield
        except ApiException as error:
            raise self._refusal(error, verb, plural) from error
        except (urllib3.exceptions.HTTPError, OSError, ConfigException) as error:  # or its token cannot be read now
            raise UnreachableBackendError(
                f"Kubernetes does not answer: {error}.",
                hint="Is its API server up, and reachable from here?",
            ) from error

    def _refusal(self, error: ApiException, verb: str, plural: str) -> Exception:
        status, text = int(error.status or 0), _text(error)
        try:
            told = _Refusal.model_validate_json(text)
        except ValidationError:
            told = None
        words = (told.message if told is not None else " ".join(text.split()))[:500] or str(error.reason)
        if status == HTTPStatus.UNAUTHORIZED:
            return BackendError(
                f"Kubernetes does not know this service: {words}",
                hint="Look at the credentials in its kubeconfig, or whether its service account still exists.",
            )
        if status == HTTPStatus.NOT_FOUND:
            if told is not None:
                return _NotFoundError(words)
            if "page not found" in text:  # of a group that the API server does not know, it says no more
                return BackendError(
                    f"KubeRay is not installed: Kubernetes knows no {plural}.{_GROUP} of {_VERSION}.",
                    hint="Install the KubeRay operator with its resource definitions, 1.7 or newer.",
                )
        if status == HTTPStatus.CONFLICT and told is not None and told.reason == "AlreadyExists":
            return _ExistsError(words)
        if status == HTTPStatus.FORBIDDEN and _NO_ROOM not in words:
            right = f"Its role needs the verb {verb!r} on {plural}.{_GROUP} in the namespace {self.namespace}."
            return BackendError(f"Kubernetes refuses: {words}", hint=right if _NO_RIGHT in words else "See its rules.")
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY) and told is not None:
            return BackendError(f"Kubernetes refuses the RayJob: {words}", hint="Correct what it names.")
        # Conflicts and quotas are among these: they pass, so it is worth asking again.
        return UnreachableBackendError(
            f"Kubernetes answers {status}: {words}",
            hint="If this lasts, look at its API server, and whether a proxy answers for it.",
        )


def _as(kind: type[_Read], said: object) -> _Read:
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        raise UnreachableBackendError(
            f"What answers for Kubernetes does not answer as it does: {error.errors()[0]['msg']}.",
            hint="Does a proxy answer for it?",
        ) from error


class _NotFoundError(Exception):
    """There is no such object, or no such namespace."""


class _ExistsError(Exception):
    """There is one of that name."""


def _connected(kubeconfig: Path | None) -> CustomObjectsApi:
    from kubernetes import client, config  # slow to import

    configuration = client.Configuration()
    # A repeated request is the caller's to make, who looks in between: a POST that was lost may have arrived.
    configuration.retries = False
    given = str(kubeconfig or os.environ.get("KUBECONFIG") or "")
    try:
        if not given and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(given or None, client_configuration=configuration, persist_config=False)
    except (config.ConfigException, OSError) as error:
        raise UserError(
            f"nothing says where Kubernetes is: {error}",
            hint="Set KUBECONFIG to a kubeconfig, or run the service in a pod with a service account.",
        ) from error
    return client.CustomObjectsApi(client.ApiClient(configuration))


def _text(error: ApiException) -> str:
    body = error.body
    if isinstance(body, bytes):
        return body.decode(errors="replace")
    return body if isinstance(body, str) else json.dumps(body)
