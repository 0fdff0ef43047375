"""An API that really listens, over a store of its own, with a token for each role and runs in all states."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from jobs.spec import parse_spec
from service.api.app import create_app
from service.api.settings import ApiSettings
from service.contract.messages import Identity, NewToken
from service.control.control import Control
from service.runs.records import Ending, NewRun, Run
from service.runs.retry import Cause
from service.runs.states import Signal, State
from service.settings import Settings
from tests.service.runs.conftest import Clock

ROLES = ("viewer", "runner", "promoter", "admin")
ADMIN = Identity(owner="root", role="admin", version="0")
SPEC = """\
name: photos
data: {train: s3://datasets/photos/train, image_size: 32}
encoder: {name: resnet10}
method: {groups: 1}
train: {epochs: 8}
"""
_STEPS: Mapping[State, list[Signal]] = {
    State.QUEUED: [],
    State.STARTING: [Signal.BEGIN],
    State.RUNNING: [Signal.BEGIN, Signal.ACCEPTED, Signal.RUNNING],
    State.RECOVERING: [Signal.BEGIN, Signal.RUNNING, Signal.LOST],
    State.STOPPING: [Signal.BEGIN, Signal.RUNNING, Signal.STOP],
    State.SUCCEEDED: [Signal.BEGIN, Signal.RUNNING, Signal.SUCCEEDED],
    State.FAILED: [Signal.BEGIN, Signal.RUNNING, Signal.FAILED],
    State.CANCELLED: [Signal.STOP],
}
QUICK = ApiSettings(per_minute=0, anonymous_per_minute=0, poll_s=0.02, heartbeat_s=0.05)


@dataclass
class Api:
    """A service, and where it listens."""

    url: str
    control: Control
    clock: Clock
    _secrets: dict[tuple[str, str | None], str] = field(default_factory=dict)

    def secret(self, role: str = "admin", project: str | None = None) -> str:
        """The secret of a token that is good."""
        if (role, project) not in self._secrets:
            new = NewToken(name=role, owner=f"{role}-{project}", role=role, project=project, days=None)  # type: ignore[arg-type]
            self._secrets[role, project] = self.control.service(ADMIN).tokens.issue(new).secret
        return self._secrets[role, project]

    def ask(self, method: str, path: str, secret: str | None = None, **more: Any) -> httpx.Response:  # noqa: ANN401
        """One request, with a token or without."""
        headers = {} if secret is None else {b"Authorization": f"Bearer {secret}".encode()}
        with httpx.Client(base_url=self.url, headers=headers, timeout=20, verify=False) as client:
            return client.request(method, path, **more)

    @contextlib.contextmanager
    def client(self, role: str | None = "admin", project: str | None = None) -> Iterator[httpx.Client]:
        """Whoever has a token of that role, or none."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.secret(role, project)}"}
        # Reading the certificates of the world for each client would take longer than most tests.
        with httpx.Client(base_url=self.url, headers=headers, timeout=20, verify=False) as client:
            yield client

    def run(self, run_id: str, state: State = State.QUEUED, *, project: str = "default", kind: str = "run") -> Run:
        """Store a run, and bring it into a state."""
        new = NewRun(
            id=run_id,
            name="photos",
            spec=SPEC,
            spec_hash=parse_spec(SPEC).hash,
            owner="ann",
            project=project,
            storage=str(self.control.settings.storage),
            kind=kind,  # type: ignore[arg-type]
        )
        run = self.control.store.create(new)
        for signal in _STEPS[state]:
            ended = signal in (Signal.LOST, Signal.FAILED)
            ending = Ending(Cause.NAN if ended else None, 0, None) if ended or signal is Signal.SUCCEEDED else None
            run = self.control.store.move(
                run, signal, words=f"{signal}.", actor="test", backend="local", ending=ending, due=self.clock()
            )
        return run


@contextlib.contextmanager
def serve(control: Control, settings: ApiSettings = QUICK) -> Iterator[str]:
    """The address of an API over a control, in a thread of this process."""
    app = create_app(control, settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, server_header=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.streams.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def open_api(home: Path, settings: ApiSettings = QUICK, *, database: str | None = None) -> Iterator[Api]:
    """An API with everything of its own below a folder."""
    clock = Clock()
    service = Settings.from_environment({"RECO_HOME": str(home)})
    service = replace(service, database=database or service.database)
    with Control(service, clock=clock) as control, serve(control, settings) as url:
        yield Api(url, control, clock)


def expired(api: Api) -> str:
    """The secret of a token that has ended by itself, and was never used."""
    until = api.clock() - timedelta(seconds=1)
    return api.control.tokens_store.issue(name="old", owner="old", role="admin", expires=until)[0]


def revoked(api: Api) -> str:
    """The secret of a token that somebody ended."""
    secret, token = api.control.tokens_store.issue(name="bad", owner="bad", role="admin")
    assert api.control.tokens_store.revoke(token.id)
    return secret
