"""What the processes of a stack find in their environment: where the other parts are, and how to be let in."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.stack.layout import Layout
from service.stack.processes import PART, STACK
from service.stack.record import Options

MLFLOW = "MLFLOW_TRACKING_URI"
_OTHERS = ("RECO_API", "RECO_TOKEN", "RECO_RAY_JOBS", "RECO_BACKEND", "RECO_BACKEND_PLACE", MLFLOW, STACK, PART)
_OTHER_STORES = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_PROFILE")


@dataclass
class Places:
    """Where the parts of a stack are.

    Attributes:
        layout: Its files.
        options: What it has.
        ports: By name: `api`, `s3`, `ray` (its head), `dashboard`, `agent` and `client`.
        tracking: Address of MLflow; empty until it is known.
        told: Variables that were kept when the stack was started, and hold whatever is said here now.
    """

    layout: Layout
    options: Options
    ports: Mapping[str, int]
    tracking: str = ""
    told: Mapping[str, str] = field(default_factory=dict)

    def address(self, port: str) -> str:
        """Of what listens on a port, by the port's name."""
        return f"http://127.0.0.1:{self.ports[port]}"

    def given(self) -> dict[str, str]:
        """The environment of who started this, without what is said there of other services."""
        others = _OTHERS if self.options.s3 is None else _OTHERS + _OTHER_STORES
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name not in others}
        # Ray's jobs are run by the first `python` there is.
        kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        kept |= {name: value for name, value in self.told.items() if name != MLFLOW}
        return kept | {"RECO_HOME": str(self.layout.home), "PYTHONUNBUFFERED": "1"}

    def of_head(self) -> dict[str, str]:
        """Of Ray's head, and so of every job on it."""
        return self.given() | self.stores() | self._ray()

    def of_service(self) -> dict[str, str]:
        """Of the leader and the API."""
        backend = {"RECO_BACKEND": "local"}
        if self.options.ray:
            backend = {
                "RECO_BACKEND": "ray",
                # Not the port, which the next head may not get: with this one all of its jobs end.
                "RECO_BACKEND_PLACE": f"ray:{self.layout.home}",
                "RECO_RAY_JOBS": self.address("dashboard"),
                "RAY_ADDRESS": f"127.0.0.1:{self.ports['ray']}",
            } | self._ray()
        # Whoever may call this API works on this machine anyway.
        return self.given() | self.stores() | backend | {"RECO_ALLOW_LOCAL": "1"}

    @property
    def others_tracking(self) -> str:
        """Address of an MLflow server that somebody else keeps up; empty where the stack has its own."""
        return (self.told or os.environ).get(MLFLOW, "").strip()

    def stores(self) -> dict[str, str]:
        """Where MLflow is, and S3 where the stack has one."""
        found = {MLFLOW: self.tracking} if self.tracking else {}
        if self.options.s3 is None:
            return found
        access, secret = self.layout.s3_keys
        return found | {
            "AWS_ENDPOINT_URL": self.address("s3"),
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def exports(self) -> str:
        """What a shell needs that works with the stack, as lines for it to read. The token stays in its file."""
        found = {"RECO_HOME": str(self.layout.home), "RECO_API": self.address("api")} | self.stores()
        # Found by way of the home. Were it named here, the next `reco up` in this shell would take it for another's.
        found.pop(MLFLOW, None)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in found.items()]
        lines += [f"unset {name}" for name in _OTHER_STORES if self.options.s3 is not None]
        return "\n".join([*lines, f'export RECO_TOKEN="$(cat {shlex.quote(str(self.layout.token))})"', ""])

    def _ray(self) -> dict[str, str]:
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.layout.ray_token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Or else it takes this machine's outer address for its own, and listens there.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
