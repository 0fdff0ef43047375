"""Where the parts of the service find each other: read once from the environment, and told to nobody."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from jobs.errors import UserError

BackendName = Literal["local", "ray", "kuberay"]


@dataclass(frozen=True)
class Settings:
    """What a process of the service is told.

    Attributes:
        home: Folder for local state (`RECO_HOME`, `~/.reco` by default).
        database: Of the store, as SQLAlchemy writes it (`RECO_DATABASE`; a SQLite file in `home` by default).
        storage: Folder or S3 prefix that holds the folders of runs (`RECO_STORAGE`; `home/runs` by default).
        backend: Where new attempts are started (`RECO_BACKEND`; `ray` where `RECO_RAY_JOBS` is set, else `local`).
        backend_place: Name of the place where its jobs are (`RECO_BACKEND_PLACE`; made of its address by default). An
            attempt keeps it, and no backend of another place is believed to know its job.
        ray_jobs: Address of Ray's job server (`RECO_RAY_JOBS`), as `http://HOST:8265`.
        ray_token: Of that server (`RAY_AUTH_TOKEN`, or the file that `RAY_AUTH_TOKEN_PATH` names).
        kuberay_template: A RayJob as YAML, which jobs are made of (`RECO_KUBERAY_TEMPLATE`).
        kuberay_namespace: Where they are made (`RECO_KUBERAY_NAMESPACE`).
    """

    home: Path
    database: str = field(repr=False)  # it may hold a password
    storage: str
    backend: BackendName = "local"
    backend_place: str | None = None
    ray_jobs: str | None = None
    ray_token: str | None = field(default=None, repr=False)
    kuberay_template: Path | None = None
    kuberay_namespace: str = "default"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read them.

        Raises:
            UserError: What a variable says cannot be.
        """
        home = Path(absolute_place(environment.get("RECO_HOME") or "~/.reco"))
        ray_jobs = environment.get("RECO_RAY_JOBS") or None
        backend = environment.get("RECO_BACKEND") or ("ray" if ray_jobs else "local")
        template = environment.get("RECO_KUBERAY_TEMPLATE") or None
        if backend not in get_args(BackendName):
            raise UserError(
                f"RECO_BACKEND is {backend!r}, which is no backend.", hint="Set it to local, ray or kuberay."
            )
        if backend == "ray" and ray_jobs is None:
            raise UserError(
                "RECO_BACKEND is ray, but RECO_RAY_JOBS does not say where Ray's job server is.",
                hint="Set it to http://HOST:8265, the address of the cluster's dashboard.",
            )
        if backend == "kuberay" and template is None:
            raise UserError(
                "RECO_BACKEND is kuberay, but RECO_KUBERAY_TEMPLATE names no RayJob to make jobs of.",
                hint="Set it to a YAML file that holds one.",
            )
        return cls(
            home=home,
            database=absolute_database(environment.get("RECO_DATABASE") or f"sqlite:///{home / 'service.db'}"),
            storage=absolute_place(environment.get("RECO_STORAGE") or str(home / "runs")),
            backend=backend,  # type: ignore[arg-type]  # looked up above
            backend_place=environment.get("RECO_BACKEND_PLACE") or None,
            ray_jobs=ray_jobs,
            ray_token=_ray_token(environment),
            kuberay_template=Path(template) if template else None,
            kuberay_namespace=environment.get("RECO_KUBERAY_NAMESPACE") or "default",
        )


def absolute_database(url: str) -> str:
    """A database that is the same from wherever a process was started: SQLite takes a relative file from there."""
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(.*)", url)
    return url if relative is None else f"{relative[1]}{Path(relative[2]).absolute()}{relative[3]}"


def absolute_place(place: str) -> str:
    """A folder that is the same from wherever a process was started; other addresses are left as they are."""
    if "://" in place:
        return place.rstrip("/")
    try:
        return str(Path(place).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(
            f"{place} cannot be found: this user has no home folder.", hint="Set RECO_HOME, and RECO_STORAGE."
        ) from error


def _ray_token(environment: Mapping[str, str]) -> str | None:
    if token := environment.get("RAY_AUTH_TOKEN"):
        return token
    if path := environment.get("RAY_AUTH_TOKEN_PATH"):
        try:
            return Path(path).expanduser().read_text().strip() or None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UserError(
                f"the token of Ray cannot be read: {path}: {why}.",
                hint="Correct RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_TOKEN.",
            ) from error
    return None
