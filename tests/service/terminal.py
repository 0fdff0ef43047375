"""A command at a terminal: what it shows can be waited for, and keys can be pressed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

CTRL_C = "\x03"
PATIENCE_S = 120.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """One command at a terminal of 200 columns.

    Attributes:
        shown: All it has shown so far, without colours.
    """

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self._process, self._ours = process, ours
        self._raw = b""
        self._seen = 0

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self._raw.decode(errors="replace"))

    def wait_for(self, words: str, *, patience_s: float = PATIENCE_S) -> None:
        """Read until these words are shown after what was waited for before."""
        deadline = time.monotonic() + patience_s
        while (place := self.shown.find(words, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{words!r} was not shown:\n{self.shown}"
            assert self._read(), f"it ended without showing {words!r}:\n{self.shown}"
        self._seen = place + len(words)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait(self, *, patience_s: float = PATIENCE_S) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + patience_s
        while self._read():
            assert time.monotonic() < deadline, self.shown
        return self._process.wait(timeout=patience_s)

    def _read(self) -> bool:
        """Read what there is within a second; False at the end."""
        if not select.select([self._ours], [], [], 1.0)[0]:
            return self._process.poll() is None
        try:
            part = os.read(self._ours, 1 << 16)
        except OSError:  # what Linux says once nobody has the other side open
            return False
        self._raw += part
        return bool(part)


@contextlib.contextmanager
def at_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Start a command at a terminal of its own; it is ended with the context."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    process = subprocess.Popen(
        list(command),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
