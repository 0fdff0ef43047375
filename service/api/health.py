"""How the parts are that the service works with; asked at most every few seconds, however often somebody looks."""

from __future__ import annotations

import os
import threading
import time

import httpx
from sqlalchemy import text

from service.api.messages import Health
from service.control.control import Control
from service.runs.errors import StoreError

_ASKED_EVERY_S = 5.0
_PATIENCE_S = 2.0


class Parts:
    """Looks at the database, MLflow and the cluster.

    Args:
        control: The service.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._asked_at, self._others = float("-inf"), {"mlflow": "unknown", "ray": "unknown"}

    def look(self) -> Health:
        """How they are. Addresses are told to nobody: who asks may be anybody."""
        due = time.monotonic() - self._asked_at >= _ASKED_EVERY_S
        if due and self._lock.acquire(blocking=False):  # one asks; others do not wait, or they would keep all threads
            try:
                self._others = {
                    "mlflow": _reached(os.environ.get("MLFLOW_TRACKING_URI"), "/health"),
                    "ray": _reached(self._control.settings.ray_jobs, "/api/version"),
                }
                self._asked_at = time.monotonic()
            finally:
                self._lock.release()
        ready = self._database_answers()
        return Health(ready=ready, parts={"database": "ok" if ready else "unreachable", **self._others})

    def _database_answers(self) -> bool:
        try:
            with self._control.database.reading() as session:
                session.execute(text("SELECT 1"))
        except StoreError:
            return False
        return True


def _reached(address: str | None, path: str) -> str:
    """Whether something answers at an address; what it answers, even that it wants a token, does not matter."""
    if address is None or not address.startswith(("http://", "https://")):
        return "unset"
    try:
        httpx.get(address.rstrip("/") + path, timeout=_PATIENCE_S)
    except (httpx.HTTPError, httpx.InvalidURL):
        return "unreachable"
    return "ok"
