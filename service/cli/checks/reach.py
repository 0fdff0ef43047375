"""How the checks reach out: to a child process, a port, a page; none of them raises."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from service.child import python

CONNECT_SECONDS = 3.0
"""Longest wait for a connection."""

PROBE_SECONDS = 60.0
"""Longest wait for torch to be imported, or for Ray to take this machine in."""


def ask(*arguments: str) -> dict[str, Any]:
    """Run `python -m jobs.doctor` and return its report.

    Its key `error` tells a failure, one that died or hung included; `log` then holds what was written on stderr.
    """
    command = python("jobs.doctor", *arguments)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        report: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_SECONDS:g} s"}
    except (IndexError, ValueError):
        last = next(reversed(ended.stderr.split("\n") if ended.stderr.strip() else ["no output"]))
        return {"error": f"ended with exit code {ended.returncode}: {last.strip()[:200]}"}
    return report | {"log": ended.stderr} if "error" in report else report


def get(url: str) -> tuple[str | None, str]:
    """Return the text at `url`, or None and why not."""
    try:
        parts = urlsplit(url)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        with urllib.request.urlopen(bare, timeout=CONNECT_SECONDS) as answer:
            return answer.read(4096).decode(errors="replace").strip(), ""
    except urllib.error.HTTPError as error:
        error.close()
        return None, f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return None, str(getattr(reason, "strerror", None) or reason)


def refusal(host: str, port: int) -> str | None:
    """Return why no connection to `host` and `port` can be made, or None where it can."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return (error.strerror or str(error) or type(error).__name__).lower()
    return None
