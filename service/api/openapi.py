"""The OpenAPI document of the API: `python -m service.api.openapi > docs/openapi.json`."""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.documents import DESCRIPTION, PROBLEMS
from service.api.problems import MEDIA_TYPE
from service.api.routes import access, health, models, runs
from service.control.control import version

ROUTERS: tuple[APIRouter, ...] = (runs.router, models.router, access.router, health.router)


@functools.cache
def document() -> dict[str, Any]:
    """All routes, what they take and answer, and how callers show who they are."""
    app = FastAPI(responses=PROBLEMS)
    for router in ROUTERS:
        app.include_router(router)
    made = get_openapi(title="reco", version=version(), description=DESCRIPTION, routes=app.routes)
    made["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "As `reco tokens create` prints it."}
    }
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/") or path == "/metrics":
                operation["security"] = [{"token": []}]
            for status in PROBLEMS:
                operation["responses"][status]["content"] = problem
    return made


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
