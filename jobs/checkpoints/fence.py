"""Attempts and their numbers: of several that believe to be the run, only the newest may write."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime

from jobs.errors import RecoError
from jobs.storage import Storage

_log = logging.getLogger(__name__)
_PREFIX = "attempts/"


class FencedError(RecoError):
    """A newer attempt has taken the run over."""


class Fence:
    """One attempt's right to write to a run.

    A host that was cut off and comes back, or a process that was stopped and goes on, still believes that it trains the
    run. Each attempt therefore takes the next number by a conditional create, and looks before it writes whether its
    number is still the highest. Where an S3 endpoint ignores the condition, two attempts may take one number; the
    content then tells whose it is.

    Args:
        storage: The run's folder.
        number: The attempt's.
        token: What it wrote under that number.
    """

    def __init__(self, storage: Storage, *, number: int, token: str) -> None:
        self._storage = storage
        self.number = number
        self._token = token

    @classmethod
    def take(cls, storage: Storage, about: Mapping[str, str | int] | None = None) -> Fence:
        """Begin a new attempt; every earlier one is fenced from now on.

        Args:
            storage: The run's folder.
            about: What else to note of the attempt, such as what it computes with.
        """
        while True:
            number = _newest(storage) + 1
            token = secrets.token_hex(8)
            note: dict[str, str | int] = {
                "token": token,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
                **(about or {}),
            }
            if storage.create(_key(number), json.dumps(note).encode()):
                _log.info("this is attempt %d: %s", number, ", ".join(f"{name} {of}" for name, of in note.items()))
                return cls(storage, number=number, token=token)

    def check(self) -> None:
        """Do nothing while this attempt is the newest.

        Raises:
            FencedError: It is not.
            StorageError: The storage cannot be asked.
        """
        newest = _newest(self._storage)
        if newest == self.number and json.loads(self._storage.read(_key(newest)))["token"] == self._token:
            return
        raise FencedError(
            f"attempt {self.number} of {self._storage.url} was replaced by attempt {newest}: it stops without writing.",
            hint="Nothing is lost: the newer attempt goes on from the last checkpoint.",
        )


def _newest(storage: Storage) -> int:
    return max((int(stored.key[len(_PREFIX) :].removesuffix(".json")) for stored in storage.list(_PREFIX)), default=0)


def _key(number: int) -> str:
    return f"{_PREFIX}{number:06d}.json"
