"""Reads of a run's folder that a page does not wait for any longer than a reader would."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jobs.errors import RecoError
from service.api.problems import in_words

_log = logging.getLogger("reco.web")
_AT_ONCE = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """Why a part of a page is not there now, in words."""

    why: str


class Readers:
    """Reads folders beside the page: storage that is away is waited for by jobs, for minutes, but not by people.

    Args:
        wait_s: Longest that a page waits for one read.
    """

    def __init__(self, wait_s: float = 5.0) -> None:
        self._wait_s = wait_s
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pages")

    def read(self, read: Callable[[], T]) -> T | Missing:
        """What a folder holds, or why that cannot be told now."""
        reading = self._pool.submit(read)
        try:
            return reading.result(self._wait_s)
        except TimeoutError:
            reading.cancel()
            _log.warning("a part of a page is missing: the storage did not answer in %g s", self._wait_s)
            return Missing("the storage does not answer.")
        except RecoError as error:
            _log.warning("a part of a page is missing: %s", error)
            return Missing(in_words(error)[0])
