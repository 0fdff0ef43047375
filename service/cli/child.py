"""Work that needs more than this command imports is done by a process of `jobs`."""

from __future__ import annotations

import sys


def python(module: str, *arguments: str) -> list[str]:
    """What runs a module of this project; not from the user's folder, whose files may be called like Python's."""
    return [sys.executable, "-P", "-m", module, *arguments]
