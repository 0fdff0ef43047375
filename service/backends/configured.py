"""The backends that the settings name, the one for new attempts first."""

from __future__ import annotations

from service.backends.base import Backend
from service.backends.local import LocalBackend
from service.settings import Settings


def configured(settings: Settings) -> dict[str, Backend]:
    """Every backend that can be reached, by name, the one that new attempts are started on first.

    The others stay there for attempts that were begun on them before the settings were changed.

    Raises:
        UserError: What is said of one of them cannot be.
    """

    def place(name: str) -> str | None:
        return settings.backend_place if name == settings.backend else None

    local = LocalBackend(settings.home / "jobs", place=place(LocalBackend.name))
    found: dict[str, Backend] = {local.name: local}
    if settings.ray_jobs is not None:
        from service.backends.ray_jobs import RayJobsBackend  # a service without Ray needs no HTTP client for it

        found[RayJobsBackend.name] = RayJobsBackend(
            settings.ray_jobs, settings.ray_token, place=place(RayJobsBackend.name)
        )
    if settings.kuberay_template is not None:
        from service.backends.kuberay import KubeRayBackend  # nor, without KubeRay, a client of Kubernetes
        from service.backends.kuberay_api import RayJobs
        from service.backends.kuberay_manifest import Template

        template, rayjobs = Template.read(settings.kuberay_template), RayJobs(settings.kuberay_namespace)
        found[KubeRayBackend.name] = KubeRayBackend(
            template, rayjobs, settings.ray_token, place=place(KubeRayBackend.name)
        )
    return {settings.backend: found[settings.backend], **found}
