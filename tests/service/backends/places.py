"""The places that jobs run at in these tests, also as another process reaches them.

    python -m tests.service.backends.places PLACE METHOD ARGUMENTS

prints `ready`, waits for a line, calls the method, and prints what it returned; everything is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.backends.base import Answer, Backend, Job
from service.backends.kuberay import KubeRayBackend
from service.backends.kuberay_api import RayJobs
from service.backends.kuberay_manifest import Template
from service.backends.local import LocalBackend
from service.backends.ray_jobs import RayJobsBackend
from tests.service.backends.kube_api import NAMESPACE

GRACE_S = 2.0
RAYJOB = Path(__file__).with_name("rayjob.yaml")


@dataclass(frozen=True)
class Place:
    """Where jobs run.

    Attributes:
        kind: `local`, `ray` or `kuberay`.
        where: The folder, the address, or the kubeconfig.
        token: For Ray.
    """

    kind: str
    where: str
    token: str | None = None

    def backend(self) -> Backend:
        """A new one each time: it keeps nothing."""
        if self.kind == "local":
            return LocalBackend(Path(self.where), grace_s=GRACE_S)
        if self.kind == "kuberay":
            rayjobs = RayJobs(NAMESPACE, kubeconfig=Path(self.where))
            return KubeRayBackend(Template.read(RAYJOB), rayjobs, self.token, grace_s=GRACE_S)
        return RayJobsBackend(self.where, self.token, grace_s=GRACE_S)

    def elsewhere(self, method: str, *arguments: object, ready: bool = True) -> Elsewhere:
        """A process that calls a method of this place's backend."""
        given = [dataclasses.asdict(value) if isinstance(value, Job) else value for value in arguments]
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(dataclasses.asdict(self)), method, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        elsewhere = Elsewhere(process)
        if ready:
            elsewhere.await_ready()
        return elsewhere


@dataclass(frozen=True)
class Elsewhere:
    """Another process, which waits to be told to call."""

    process: subprocess.Popen[str]

    def await_ready(self) -> None:
        """Until it has imported everything."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Let it call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def returned(self) -> Any:  # noqa: ANN401 - whatever the method returns
        """What the call returned, once the process has ended."""
        printed, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return json.loads(printed)

    def called(self) -> Any:  # noqa: ANN401 - whatever the method returns
        """Let it call; returns what the call returned."""
        self.go()
        return self.returned()


def shell(script: str, **environment: str) -> Job:
    """A job that is a shell script."""
    return Job(["sh", "-c", script], environment)


def until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.03)


def end_of(backend: Backend, submission_id: str) -> Answer:
    """How a job ended, once it has."""
    answers = [Answer("pending")]

    def ended() -> bool:
        answers.append(backend.look(submission_id))
        return answers[-1].ended

    until(ended)
    return answers[-1]


def log_of(backend: Backend, submission_id: str) -> bytes:
    """All of it there is, from its beginning."""
    parts, offset = [b""], 0
    while (part := backend.log(submission_id, offset)).data:
        parts.append(part.data)
        offset = part.next_offset
    return b"".join(parts)


def _main(place: str, method: str, arguments: str) -> None:
    backend = Place(**json.loads(place)).backend()
    given = [Job(**value) if isinstance(value, dict) else value for value in json.loads(arguments)]
    print("ready", flush=True)
    sys.stdin.readline()
    returned = getattr(backend, method)(*given)
    print(
        json.dumps(
            dataclasses.asdict(returned) if dataclasses.is_dataclass(returned) else returned, default=bytes.decode
        )
    )


if __name__ == "__main__":
    _main(*sys.argv[1:])
