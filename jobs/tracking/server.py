"""Where runs are tracked: the server the user names, or a local one over SQLite, started on first use."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from jobs.tracking.client import shown
from jobs.tracking.errors import TrackingError, TrackingUnreachableError
from jobs.tracking.health import trouble

START_SECONDS = 180.0
"""Longest wait for a server to come up; it takes 7 s on two idle cores, and many times that where they are busy."""

REACH_SECONDS = 5.0
"""Longest wait for one answer of a server the user named."""

# Every process of the server carries its folder in its environment: a stranger that got the same pid does not.
MARK = "RECO_TRACKING_FOLDER"


@dataclass(frozen=True)
class ServerStatus:
    """State of the local server.

    Attributes:
        running: Whether it runs and answers.
        uri: Its address, or None where it does not run.
        pid: Its process id, or None.
        started: When it was started (UTC), or None.
        memory_bytes: Resident memory of all its processes.
        folder: Where its database, artifacts and log are.
    """

    running: bool
    uri: str | None
    pid: int | None
    started: datetime | None
    memory_bytes: int
    folder: Path


def tracking_uri(home: Path, *, progress: Callable[[str], None] | None = None) -> str:
    """Return the address of an MLflow server that answers, starting the local one where needed.

    `MLFLOW_TRACKING_URI` wins; an http(s) address is asked for its health first, others (`sqlite:///…`, `databricks`)
    are passed on. The local server keeps everything under `home/mlflow` and runs on after this process has ended. Any
    number of processes may call this at once: one of them starts it.

    Args:
        home: Folder of this project's local state.
        progress: Called with one line before a wait of several seconds.

    Raises:
        TrackingUnreachableError: Nothing answers at `MLFLOW_TRACKING_URI`, or it is no MLflow server.
        TrackingError: The local server did not come up; the message holds the end of its log.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if named:
        _check_reachable(named)
        return named
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    running = _running_uri(folder)
    if running:
        return running
    with _lock(folder, progress):
        return _running_uri(folder) or _start(folder, progress)


def stop_server(home: Path) -> bool:
    """Stop the local server with everything it started; return False where none was running."""
    folder = _folder(home)
    if not folder.is_dir():
        return False
    with _lock(folder, None):
        processes = _processes(folder)
        _stop(processes)
        return bool(processes)


def server_status(home: Path) -> ServerStatus:
    """Return the state of the local server, without starting it."""
    folder = _folder(home)
    processes = _processes(folder)
    uri = _running_uri(folder)
    state = _read_state(folder)
    started = datetime.fromtimestamp(float(state["started"]), UTC) if uri and state else None
    memory = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss
    return ServerStatus(uri is not None, uri, int(state["pid"]) if uri and state else None, started, memory, folder)


def _folder(home: Path) -> Path:
    return home.expanduser().resolve() / "mlflow"


def _check_reachable(uri: str) -> None:
    if not uri.startswith(("http://", "https://")):
        return
    reason = trouble(uri, timeout=REACH_SECONDS)
    if reason is None:
        return
    raise TrackingUnreachableError(
        f"MLflow is not reachable at {shown(uri)} (MLFLOW_TRACKING_URI): {reason}.",
        hint="Start that server or mend the address; with MLFLOW_TRACKING_URI unset a local one is started for you.",
    )


@contextlib.contextmanager
def _lock(folder: Path, progress: Callable[[str], None] | None) -> Iterator[None]:
    with (folder / "server.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                progress("Waiting for the MLflow server that another process is starting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_state(folder: Path) -> dict[str, float] | None:
    try:
        state = json.loads((folder / "server.json").read_text())
        return {"pid": int(state["pid"]), "port": int(state["port"]), "started": float(state["started"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None  # Missing, cut off or written by hand: as good as no state, and the next start writes a new one.


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _running_uri(folder: Path) -> str | None:
    state = _read_state(folder)
    if state is None or not _is_ours(int(state["pid"]), folder):
        return None
    uri = _address(int(state["port"]))
    # A busy machine delays a healthy server's answer; taking it for dead would kill it under a running job.
    return uri if trouble(uri, timeout=20.0) is None else None


def _is_ours(pid: int, folder: Path) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(folder)
    except psutil.Error:
        return False


def _processes(folder: Path) -> list[psutil.Process]:
    """Return every process of this folder's server, found by its mark: the state file and leader may be gone."""
    mine = psutil.Process().username()
    return [
        process
        for process in psutil.process_iter(["username"])
        if process.info["username"] == mine and process.pid != os.getpid() and _is_ours(process.pid, folder)
    ]


def _stop(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)


def _start(folder: Path, progress: Callable[[str], None] | None) -> str:
    """Start the server; the caller holds the lock."""
    _stop(_processes(folder))  # Remains of a server whose leader was killed hold its port and its database.
    if progress:
        progress("Starting the local MLflow server (a few seconds, once)")
    state = _read_state(folder)
    port = int(state["port"]) if state else 0
    for attempt in range(3):
        # Links into the last server's pages stay valid where its port can be had again.
        port = port if attempt == 0 and _is_free(port) else _free_port()
        if _launch(folder, port):
            return _address(port)
    raise TrackingError(
        "the local MLflow server found no free port in three attempts.", hint=f"Look into {folder / 'server.log'}."
    )


def _launch(folder: Path, port: int) -> bool:
    """Start the server on `port` and wait until it answers; return False where the port was taken meanwhile."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,  # Ctrl-C in the terminal, or its closing, must not take the server along.
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            text = log.read_text(errors="replace")
            if "address already in use" in text.lower():
                return False
            raise TrackingError(
                f"the local MLflow server ended at start-up (exit code {process.returncode}): {_tail(text)}",
                hint=f"Its whole log is {log}.",
            )
        if trouble(_address(port), timeout=2.0) is None and _listens(folder, port):
            state = {"pid": process.pid, "port": port, "started": time.time()}
            temporary = folder / "server.json.tmp"
            temporary.write_text(json.dumps(state))
            temporary.replace(folder / "server.json")
            return True
        time.sleep(0.1)
    _stop(_processes(folder))
    text = log.read_text(errors="replace")
    raise TrackingError(
        f"the local MLflow server did not answer within {START_SECONDS:.0f} s: {_tail(text)}",
        hint=f"Its whole log is {log}.",
    )


def _command(folder: Path, port: int) -> list[str]:
    options = {
        "--backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination": str(folder / "artifacts"),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--no-access-log",
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)]


def _environment(folder: Path) -> dict[str, str]:
    # MLflow reads every option of the server from the environment too; the caller's settings are meant for clients.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return kept | {
        MARK: str(folder),
        # Eight job runners of 220 MB each for evaluations that nothing here asks for.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "OMP_NUM_THREADS": "1",
    }


def _is_free(port: int) -> bool:
    if not port:
        return False
    with socket.socket() as candidate:
        # As the server does: a connection that is still closing is no owner.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


def _listens(folder: Path, port: int) -> bool:
    for process in _processes(folder):
        with contextlib.suppress(psutil.Error):
            sockets = process.net_connections("tcp")
            if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets):
                return True
    return False


def _tail(text: str, lines: int = 8) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:]) or "its log is empty"
