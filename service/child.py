"""Processes of this project that others of it start: how a module is run, and how one ends with who started it."""

from __future__ import annotations

import ctypes
import signal
import sys


def python(module: str, *arguments: str) -> list[str]:
    """What runs a module of this project; not from the user's folder, whose files may be called like Python's."""
    return [sys.executable, "-P", "-m", module, *arguments]


def end_with_parent() -> None:
    """Have the process that calls this get SIGTERM when its parent dies, instead of going on unseen: a `preexec_fn`."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
