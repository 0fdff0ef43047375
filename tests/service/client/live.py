"""The API of a service in a thread of the test's process: the real application behind the real server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from service.api.app import create_app
from service.api.settings import ApiSettings
from service.control.control import Control

OPEN = ApiSettings(allow_local=True, per_minute=0, anonymous_per_minute=0, token_cache_s=0.0, poll_s=0.02)
"""What tests allow that are not about what is allowed."""


class Api:
    """Can be ended and started again; its address stays the same.

    Args:
        control: What it serves.
        settings: Its rules and limits.
    """

    def __init__(self, control: Control, settings: ApiSettings = OPEN) -> None:
        self.control, self._settings = control, settings
        self._port = 0
        self._server: uvicorn.Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._app = create_app(self.control, self._settings)
        config = uvicorn.Config(self._app, log_config=None, access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.005)

    def stop(self) -> None:
        if self._server is not None:
            self._app.state.streams.close()
            self._server.should_exit = True
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._server = None

    def token(self, role: str = "admin", *, project: str | None = None, owner: str = "ann") -> str:
        return self.control.tokens_store.issue(name="test", owner=owner, role=role, project=project)[0]


@contextlib.contextmanager
def serving(control: Control, settings: ApiSettings = OPEN) -> Iterator[Api]:
    api = Api(control, settings)
    try:
        yield api
    finally:
        api.stop()


@contextlib.contextmanager
def losing_answers(url: str, *, losses: int) -> Iterator[str]:
    """The address of a relay to a server, which passes on every request, and loses the answers to the first ones."""
    host, port = url.removeprefix("http://").split(":")
    listening = socket.create_server(("127.0.0.1", 0))
    left = [losses]

    def relay(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            while answer := server.recv(1 << 16):
                if left[0] > 0:
                    left[0] -= 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(answer)

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                threading.Thread(target=relay, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
