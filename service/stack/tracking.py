"""MLflow as a part of the stack: the same local server that commands without a stack start and use.

Run as a process, this module starts that server and ends; so the wait for it can be cut short.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

from jobs.errors import RecoError
from jobs.tracking.health import trouble
from jobs.tracking.server import server_status, stop_server, tracking_uri
from service.child import python
from service.stack.environment import Places
from service.stack.parts import Part, PartError, last_words, launch
from service.stack.processes import Process

_ANSWER_S = 5.0


class LocalTracking(Part):
    """The local server.

    Args:
        places: Are told its address.
        moved: Called when a new server has another address than the one before.
    """

    start_s = 200.0  # the server's own patience is 180 s

    def __init__(self, places: Places, moved: Callable[[], None]) -> None:
        super().__init__("mlflow", places.layout.log("mlflow"))
        self._places, self._moved = places, moved

    @property
    def url(self) -> str:
        """See `Part.url`."""
        return self._places.tracking

    def start(self, stopping: Event) -> Process | None:
        """See `Part.start`; returns when the server answers."""
        home = self._places.layout.home
        starter = launch(
            python("service.stack.tracking", str(home)), self.log, self._places.given(), cwd=self._places.layout.folder
        )
        while True:
            try:
                code = starter.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                if stopping.is_set():
                    starter.kill()  # it waits only; what it has started is found by `stop`
                    starter.wait()
                    return None
        status = server_status(home)
        if code or status.pid is None or status.uri is None:
            raise PartError(last_words(self.log))
        before, self._places.tracking = self._places.tracking, status.uri
        if before and before != status.uri:
            self._moved()
        return Process.of(status.pid)

    def trouble(self, process: Process | None) -> str | None:
        """See `Part.trouble`."""
        return "it does not run" if process is None else trouble(self._places.tracking, timeout=_ANSWER_S)

    def stop(self, process: Process | None) -> None:
        """See `Part.stop`."""
        stop_server(self._places.layout.home)

    def last_words(self) -> str:
        """The end of the server's log."""
        return last_words(self._places.layout.home / "mlflow" / "server.log")


class OthersTracking(Part):
    """The server that MLFLOW_TRACKING_URI names, which is nobody's to start or end.

    Args:
        places: Are told its address.
        uri: Its address.
    """

    def __init__(self, places: Places, uri: str) -> None:
        super().__init__("mlflow", places.layout.log("mlflow"))
        places.tracking = self._uri = uri

    @property
    def url(self) -> str:
        """See `Part.url`."""
        from jobs.tracking.client import shown  # late: it is for addresses that may hold a password

        return shown(self._uri)

    def start(self, stopping: Event) -> Process | None:
        """See `Part.start`."""
        return None

    def trouble(self, process: Process | None) -> str | None:
        """See `Part.trouble`."""
        return trouble(self._uri, timeout=_ANSWER_S) if self._uri.startswith(("http://", "https://")) else None

    def stop(self, process: Process | None) -> None:
        """See `Part.stop`."""


def tracking(places: Places, moved: Callable[[], None]) -> Part:
    """The MLflow server that the environment names, or did when the stack was started, or else the local one."""
    named = places.others_tracking
    return OthersTracking(places, named) if named else LocalTracking(places, moved)


def main() -> None:
    """Start the local server of a home, and say where it is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.write(f"{tracking_uri(Path(sys.argv[1]))}\n")
    except RecoError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
