"""Ports on 127.0.0.1: the usual one where it is free, else any that is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

import psutil

from jobs.errors import UserError


def is_free(port: int) -> bool:
    """Whether a server could listen on it."""
    with socket.socket() as candidate:
        # As servers do: a connection that is still closing is no owner.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
            candidate.listen()
        except OSError:
            return False
        return True


def choose(wanted: Iterable[int], taken: Iterable[int] = ()) -> int:
    """The first of the wanted ports that is free, or else any free one.

    Args:
        wanted: In this order.
        taken: Those that are promised to others, who do not listen yet.
    """
    promised = set(taken)
    for port in wanted:
        if port not in promised and is_free(port):
            return port
    while True:
        with socket.socket() as candidate:
            candidate.bind(("127.0.0.1", 0))
            port = int(candidate.getsockname()[1])
        if port not in promised:
            return port


def demand(port: int, *, option: str) -> int:
    """A port that somebody insists on.

    Raises:
        UserError: Another process listens there.
    """
    if not is_free(port):
        raise UserError(
            f"port {port} is taken{owner(port)}.",
            hint=f"End what listens there, or give {option} another one (without it, a free port is found).",
        )
    return port


def owner(port: int) -> str:
    """Who listens on a port, as a part of a sentence; empty where that cannot be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
                return f" by process {each.pid} ({psutil.Process(each.pid).name()})"
    return ""
