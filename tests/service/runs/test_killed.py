"""Real processes, killed between storing a run and submitting its job; each job is started once all the same."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.run_folder import RunFolder
from service.backends.base import Job
from service.backends.local import LocalBackend
from service.runs.database import open_database
from service.runs.idempotency import Replies
from service.runs.leases import Leases
from service.runs.listing import RunList
from service.runs.reconciler import Reconciler
from service.runs.records import Attempt, NewRun, Run
from service.runs.states import Signal, State
from service.runs.store import RunStore
from tests.service.runs.conftest import Clock

JOB = """
echo $RECO_SUBMISSION_ID >> "$1/starts"
mkdir -p "$1/runs/$2"
printf '{"status": "succeeded", "exit_code": 0, "submission": "%s"}' $RECO_SUBMISSION_ID > "$1/runs/$2/outcome.json"
"""
PLACES = ("stored", "begun", "submitting", "submitted")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Service:
    """What one process of the service does: it stores the run that it is asked for, and leads.

    Args:
        root: Of everything.
        clock: What time it is.
        doomed: The process dies while it works on that run.
        place: Where.
    """

    def __init__(self, root: Path, clock: Clock, doomed: str = "", place: str = "") -> None:
        self.root, self.clock = root, clock
        self.database = open_database(f"sqlite:///{root}/runs.db", clock=clock)

        class Store(RunStore):
            def move(self, run: Run, signal: Signal, **told: object) -> Run:  # type: ignore[override]
                after = super().move(run, signal, **told)  # type: ignore[arg-type]
                if (run.id, place, signal) == (doomed, "begun", Signal.BEGIN):
                    die()
                return after

        class Backend(LocalBackend):
            def submit(self, submission_id: str, job: Job) -> bool:
                ours = submission_id == f"{doomed}-a1"
                if ours and place == "submitting":
                    die()
                new = super().submit(submission_id, job)
                if ours and place == "submitted":
                    die()
                return new

        def command(run: Run, attempt: Attempt) -> Job:
            return Job(["sh", "-c", JOB, "sh", str(root), run.id])

        self.doomed, self.place = doomed, place
        self.store, self.listed = Store(self.database), RunList(self.database)
        self.leader = Reconciler(
            self.store,
            self.listed,
            Leases(self.database),
            {"local": Backend(root / "jobs")},
            command,
            lambda run: RunFolder(f"{root}/runs", run.id),
            clock,
        )

    def submit(self, run_id: str) -> None:
        """As the API does it: the answer is kept with the run, for a client that never heard it."""
        new = NewRun(run_id, "photos", "name: photos\n", "abc", "ann")
        Replies(self.database).once(
            project="default",
            key=run_id,
            request=run_id.encode(),
            act=lambda session: {"id": self.store.create_in(session, new).id},
        )
        if (run_id, self.place) == (self.doomed, "stored"):
            die()


def in_a_process(do: Callable[[], object]) -> bool:
    """Do something in a process of its own; whether that was killed."""
    if not (child := os.fork()):
        code = 1
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.slow
def test_killed_a_hundred_times_between_storing_and_submitting_each_run_is_started_once(
    tmp_path: Path, clock: Clock
) -> None:
    def asked(run_id: str, place: str) -> None:
        service = Service(tmp_path, clock, run_id, place)
        service.submit(run_id)
        service.leader.tick()

    killed = 0
    names = [f"run-{number:03d}" for number in range(100)]
    for number, run_id in enumerate(names):
        place = PLACES[number % len(PLACES)]
        killed += in_a_process(lambda run_id=run_id, place=place: asked(run_id, place))
        clock.pass_time(61)  # the lease of the dead ends
    assert killed == 100

    service = Service(tmp_path, clock)
    for run_id in names:
        service.submit(run_id)  # the client, who was never answered, asks again
    deadline = time.monotonic() + 120
    while service.listed.unfinished():
        assert time.monotonic() < deadline
        service.leader.tick()
        clock.pass_time(1)
        time.sleep(0.05)
    states = Counter(run.state for run in service.listed.page(limit=500).runs)
    started = Counter((tmp_path / "starts").read_text().split())
    service.database.close()
    assert states == {State.SUCCEEDED: 100}
    assert started == {f"{run_id}-a1": 1 for run_id in names}
