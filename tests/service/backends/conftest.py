"""What the tests of backends share: a Ray head, a Kubernetes with KubeRay over it, and a place by name."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.backends.kube import Kube
from tests.service.backends.kube_api import KubeApi
from tests.service.backends.kuberay_operator import operated
from tests.service.backends.places import Place
from tests.service.backends.ray_head import RayHead, serve_ray

_numbers = itertools.count(1)


@pytest.fixture(scope="package")  # its daemons would slow down all the tests that follow
def ray_head() -> Iterator[RayHead]:
    with serve_ray() as head:
        yield head


@pytest.fixture(scope="package")
def crds() -> Path | None:
    """The folder with KubeRay's resource definitions that RECO_CRDS names; without it, objects are not checked."""
    if not (given := os.environ.get("RECO_CRDS")):
        warnings.warn("RECO_CRDS names no folder of KubeRay's CRDs: RayJobs are not checked by them", stacklevel=1)
        return None
    return Path(given)


@pytest.fixture
def kube(crds: Path | None, tmp_path: Path) -> Iterator[Kube]:
    """A Kubernetes without KubeRay at work."""
    api = KubeApi(crds)
    yield Kube(api, tmp_path)
    api.close()


@pytest.fixture(scope="package")
def kuberay(ray_head: RayHead, crds: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A Kubernetes with KubeRay, whose clusters are all one Ray head."""
    api = KubeApi(crds)
    with operated(api, ray_head):
        yield Place("kuberay", str(api.kubeconfig(tmp_path_factory.mktemp("kube"))), ray_head.token)
    api.close()


@pytest.fixture(params=["local", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ray", "kuberay"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place that a backend starts jobs at."""
    if request.param == "local":
        return Place("local", str(tmp_path / "jobs"))
    if request.param == "kuberay":
        kuberay: Place = request.getfixturevalue("kuberay")
        return kuberay
    head: RayHead = request.getfixturevalue("ray_head")
    return Place("ray", head.address, head.token)


@pytest.fixture
def job_id() -> str:
    """One that no other test has used."""
    return f"run{next(_numbers)}-a1"
