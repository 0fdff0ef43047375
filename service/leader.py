"""The leader as a process: `python -m service.leader` works on what is stored until it is told to end."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from jobs.errors import RecoError, UserError
from service.backends.configured import configured
from service.child import python
from service.control.job import folder_of, job_of
from service.runs.database import Database, open_database
from service.runs.idempotency import Replies
from service.runs.leadership import somebody_leads
from service.runs.leases import Leases
from service.runs.listing import RunList
from service.runs.reconciler import Reconciler
from service.runs.store import RunStore
from service.settings import Settings
from service.stack.layout import Layout
from service.stack.record import read

_log = logging.getLogger("reco.leader")

LOG = "logs/leader.log"
"""Where a leader that `ensure_leader` starts says what it does, in the home folder."""
_INTERVAL_S = 2.0
# A shell that ends at once leaves its child to whoever reaps orphans: started by ourselves, a leader that ends before
# the command that started it would stay as a zombie until then.
_DETACHED = '"$@" &'


def main(arguments: Sequence[str] | None = None) -> int:
    """Lead, or wait for another leader to end; returns the exit code."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: a signal that comes while this one is inside `stop.wait` would wait for its own lock.
        signal.signal(number, lambda _number, _frame: threading.Thread(target=stop.set).start())
    try:
        settings = Settings.from_environment()
        with open_database(settings.database) as database:
            lead(settings, database, stop, interval=asked.interval, until_idle=asked.until_idle)
    except RecoError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def lead(
    settings: Settings, database: Database, stop: threading.Event, *, interval: float, until_idle: bool = False
) -> None:
    """Work on what is stored; in the main thread or another.

    Args:
        settings: Where everything is.
        database: The store's.
        stop: Ends it; another may lead at once then.
        interval: Seconds between two passes.
        until_idle: End, too, when there is nothing left to do, or another leads.
    """
    reconciler = Reconciler(
        RunStore(database),
        RunList(database),
        Leases(database),
        configured(settings),
        functools.partial(job_of, settings=settings),
        folder_of,
        database.clock,
        replies=Replies(database),
    )

    def done(led: bool) -> bool:
        if not until_idle:
            return False
        if not settings.home.is_dir():
            _log.warning("%s is gone: there is nothing left to look after", settings.home)
            return True
        with contextlib.suppress(RecoError):  # the next pass says why
            if led and reconciler.leave_if_idle():
                _log.info("nothing is left to do")
                return True
            if not led and reconciler.another_leads():
                _log.info("another process leads")
                return True
        return False

    reconciler.run_forever(stop, interval, done=done)


def served(settings: Settings) -> bool:
    """Whether a service that `reco up` has started works on what is stored in this home, or is about to."""
    record = read(Layout(settings.home).record)
    same = record.told.get("RECO_DATABASE") in (None, settings.database)
    return record.supervised and record.phase != "down" and same


def ensure_leader(settings: Settings) -> None:
    """See to it that a process works on what is stored: start one that ends by itself, unless there is one.

    It outlives the caller. Two at once do no harm: one of them leads. May be called again at any time, such as by who
    follows a run: a leader that was killed is replaced then. Where a stack is at work none is started: another leader
    would hold the lease before the stack's own, and begin what is stored as processes of this machine.

    Args:
        settings: Of the leader, where they are not secret; it inherits the rest of the environment.

    Raises:
        StoreError: The database does not answer.
        UserError: Its log cannot be written, or what is said of a backend cannot be.
    """
    if served(settings):
        return
    with open_database(settings.database) as database:
        if somebody_leads(Leases(database), database.clock):
            return
    configured(settings)  # a mistake is told here, not in the log of a process that nobody watches
    log = settings.home / LOG
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            subprocess.run(
                ["sh", "-c", _DETACHED, "sh", *python("service.leader", "--until-idle")],
                env=_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"nobody works on the runs, and no leader can be started: {error}.",
            hint=f"Is {settings.home} a folder that you may write to? `python -m service.leader` starts one by hand.",
        ) from error


def _environment(settings: Settings) -> dict[str, str]:
    """Variables from which a process reads the same settings."""
    told = {
        "RECO_HOME": settings.home,
        "RECO_DATABASE": settings.database,
        "RECO_STORAGE": settings.storage,
        "RECO_BACKEND": settings.backend,
        "RECO_BACKEND_PLACE": settings.backend_place,
        "RECO_RAY_JOBS": settings.ray_jobs,
        "RECO_KUBERAY_TEMPLATE": settings.kuberay_template,
        "RECO_KUBERAY_NAMESPACE": settings.kuberay_namespace,
    }
    inherited = {name: value for name, value in os.environ.items() if name not in told}
    return {**inherited, **{name: str(value) for name, value in told.items() if value is not None}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.leader", description=__doc__)
    parser.add_argument("--interval", type=float, default=_INTERVAL_S, help="seconds between two passes")
    parser.add_argument("--until-idle", action="store_true", help="end when there is nothing left to do")
    return parser


if __name__ == "__main__":
    sys.exit(main())
