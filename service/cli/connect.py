"""Whom commands ask: the API at `RECO_API` where it is set, else the service's own store on this machine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.errors import UserError
from service.cli import output
from service.cli.home import home

if TYPE_CHECKING:
    from service.contract.interface import Runs, Service
    from service.settings import Settings


_LOOK_EVERY_S = 5.0


def api() -> str | None:
    """The address of the API, where one is used."""
    return os.environ.get("RECO_API") or None


@contextmanager
def service(storage: str | None = None) -> Iterator[Service]:
    """The service, open for one command.

    Args:
        storage: Where new runs keep their folders, if not where the environment says. An API has a place of its own.

    Raises:
        UserError: What the environment says cannot be, or the API refuses the token.
    """
    # Imported here, as below: a command that only prints its help waits for no database and no HTTP client.
    address = api()
    if address is not None:
        from service.client import connect

        with connect(address, _token()) as remote:
            yield remote
        return
    from service.control.control import Control, this_user

    with Control(_settings(storage)) as control:
        yield control.service(this_user())


def work_on() -> None:
    """See to it that somebody works on what is stored: without an API, a leader beside this command; may be repeated.

    It outlives the command, and ends when there is nothing left to do.
    """
    if api() is None:
        from service.leader import ensure_leader

        ensure_leader(_settings(None))


def served() -> bool:
    """Whether a service that `reco up` has started in this home is at work; that of an API is not asked for."""
    from service.leader import served as by_stack

    return api() is None and by_stack(_settings(None))


class Keeper:
    """Sees to it again and again that somebody works on what is stored, as long as a command watches it.

    Whoever takes the service down wants nothing to be begun: what it worked on waits for the next `reco up`, and not
    for a command that happens to watch.

    Attributes:
        waits: The service was at work, and has been taken down.
    """

    def __init__(self) -> None:
        self.waits = False
        self._served = False
        self._looked = -math.inf

    def look(self) -> None:
        """Call `work_on`, every few seconds however often this is called."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            at_work = served()
            self.waits = self._served and not at_work
            self._served = self._served or at_work
            if not self._served:
                work_on()
            self._looked = time.monotonic()


def run_or_latest(runs: Runs, run_id: str | None) -> str:
    """The id that is given, or that of the newest run, which is told.

    Raises:
        UserError: There is none.
    """
    if run_id is not None:
        return run_id
    newest = runs.page(limit=1).runs
    if not newest:
        raise UserError("there is no run yet.", hint="`reco pretrain SPEC` starts one.")
    output.note(f"the newest run: {newest[0].id}")
    return newest[0].id


def _settings(storage: str | None) -> Settings:
    """Those of the environment, with a storage that means the same in every folder."""
    from service.settings import Settings, absolute_place

    settings = Settings.from_environment()
    return replace(settings, storage=absolute_place(storage or settings.storage))


def _token() -> str | None:
    if given := os.environ.get("RECO_TOKEN"):
        return given
    try:
        return (home() / "token").read_text().strip() or None
    except FileNotFoundError:
        return None
