"""Before a stack goes down its runs save and stop, as on a host that is about to go away: the next stack goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from jobs.errors import RecoError
from service.backends.base import Backend
from service.runs.listing import RunList
from service.runs.store import RunStore

_log = logging.getLogger("reco.stack")
_POLL_S = 0.5


def save_runs(
    store: RunStore,
    listed: RunList,
    backends: Mapping[str, Backend],
    *,
    say: Callable[[str], None],
    within_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Ask every job under way to end, and wait until all have.

    Nobody asked the *runs* to stop, and the store is not told: the next leader finds attempts that saved and stopped,
    takes them for interrupted, and begins others. What does not end in time goes on from its last checkpoint.

    Args:
        store: Of the runs.
        listed: The same as lists.
        backends: Where their jobs are.
        say: Told what is being waited for.
        within_s: Longest wait.
        sleep: Waits.

    Returns:
        Ids of runs whose jobs have not ended, or do not answer.
    """
    jobs: dict[str, tuple[Backend, str]] = {}
    unknown: list[str] = []
    for run in listed.unfinished():
        for attempt in store.attempts(run.id):
            backend = backends.get(attempt.backend)
            if attempt.ended is None and backend is not None and attempt.is_at(backend.place):
                jobs[run.id] = backend, attempt.submission_id
    for run_id, (backend, submission) in jobs.items():
        try:
            backend.stop(submission)
        except RecoError as error:
            _log.warning("%s cannot be asked to save: %s", submission, error)
            unknown.append(run_id)
    waiting = [run_id for run_id in jobs if run_id not in unknown]
    deadline = time.monotonic() + within_s
    while True:
        waiting = [run_id for run_id in waiting if not _ended(*jobs[run_id])]
        if not waiting or time.monotonic() > deadline:
            break
        say(f"waiting for {len(waiting)} run{'s' * (len(waiting) > 1)} to save: {', '.join(waiting[:3])}")
        sleep(_POLL_S)
    say("")
    return [*unknown, *waiting]


def _ended(backend: Backend, submission: str) -> bool:
    try:
        return backend.look(submission).ended
    except RecoError as error:  # it may be back in a moment
        _log.warning("nobody knows whether %s has ended: %s", submission, error)
        return False
