"""Copies of logs: whole, once, and there when the cluster is gone."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.run_folder import RunFolder
from jobs.storage import open_storage
from service.backends.base import Job, UnreachableBackendError
from service.runs.logs import LogCopies, RunLog
from tests.service.runs.conftest import Clock
from tests.service.runs.scripted import Fuse, FusedStorage, KilledError, Life, ScriptedBackend

JOB = "run-a1"


@pytest.fixture
def backend(tmp_path: Path, clock: Clock) -> ScriptedBackend:
    backend = ScriptedBackend(clock, lambda _: RunFolder(str(tmp_path), "run"), lambda _: Life(), Fuse())
    backend.submit(JOB, Job(["train"]))
    return backend


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(open_storage(str(tmp_path / "run")), 1)


def lines(first: int, last: int) -> str:
    return "".join(f"line {number}\n" for number in range(first, last))


def test_a_log_grows_as_the_job_prints_and_is_complete_once_it_has_ended(
    backend: ScriptedBackend, log: RunLog, clock: Clock
) -> None:
    copies = LogCopies(every_s=30)
    backend.say(JOB, lines(0, 100))
    assert not copies.copy(backend, JOB, log, clock(), ended=False)
    first = log.read(0)
    assert (first.data.decode(), log.is_complete) == (lines(0, 100), False)
    backend.say(JOB, lines(100, 120))
    clock.pass_time(30)
    copies.copy(backend, JOB, log, clock(), ended=False)
    assert log.read(first.next_offset).data.decode() == lines(100, 120)
    backend.say(JOB, lines(120, 121))
    assert copies.copy(backend, JOB, log, clock(), ended=True)
    assert (log.read(0).data.decode(), log.is_complete) == (lines(0, 121), True)
    del backend.jobs[JOB]  # the cluster is gone
    assert LogCopies().copy(backend, JOB, log, clock(), ended=True)
    assert log.read(0).data.decode() == lines(0, 121)


def test_a_slow_log_does_not_become_many_parts(
    backend: ScriptedBackend, log: RunLog, clock: Clock, tmp_path: Path
) -> None:
    copies = LogCopies(every_s=30)
    for number in range(60):
        backend.say(JOB, lines(number, number + 1))
        copies.copy(backend, JOB, log, clock(), ended=False)
        clock.pass_time(1)
    copies.copy(backend, JOB, log, clock(), ended=True)
    assert log.read(0).data.decode() == lines(0, 60)
    assert len(list((tmp_path / "run" / "logs" / "a1").glob("part-*"))) == 3


def test_reading_by_offset_gives_every_line_once_and_never_half_of_one(
    backend: ScriptedBackend, log: RunLog, clock: Clock
) -> None:
    backend.say(JOB, lines(0, 500))
    LogCopies().copy(backend, JOB, log, clock(), ended=True)
    for limit in (9, 50, 299, 300, 301, 10_000):
        offset, found = 0, []
        while (part := log.read(offset, limit=limit)).data:
            assert part.data.endswith(b"\n")
            assert len(part.data) <= limit
            found.append(part.data)
            offset = part.next_offset
        assert b"".join(found).decode() == lines(0, 500)


def test_a_line_longer_than_the_limit_comes_in_pieces(backend: ScriptedBackend, log: RunLog, clock: Clock) -> None:
    backend.say(JOB, "x" * 250 + "\n")
    LogCopies().copy(backend, JOB, log, clock(), ended=True)
    part = log.read(0, limit=100)
    assert (part.data, part.next_offset) == (b"x" * 100, 100)


def test_two_that_copy_at_once_neither_lose_nor_double_a_line(
    backend: ScriptedBackend, log: RunLog, clock: Clock
) -> None:
    drawn = random.Random(1)
    both = [LogCopies(every_s=0), LogCopies(every_s=0)]
    for number in range(200):
        backend.say(JOB, lines(number * 3, number * 3 + 3))
        if drawn.random() < 0.7:
            drawn.choice(both).copy(backend, JOB, log, clock(), ended=False)
            assert log.read(0).data.decode() == lines(0, number * 3 + 3)
    for copies in both:
        assert copies.copy(backend, JOB, log, clock(), ended=True)
    assert log.read(0).data.decode() == lines(0, 600)


def test_whoever_copies_may_die_at_any_write(backend: ScriptedBackend, clock: Clock, tmp_path: Path) -> None:
    backend.say(JOB, lines(0, 150))
    died = 0
    for call in range(30):
        fuse = Fuse(kills=lambda n, call=call: n == call)
        log = RunLog(FusedStorage(tmp_path / f"run-{call}", fuse), 1)
        for _ in range(2):
            try:
                assert LogCopies().copy(backend, JOB, log, clock(), ended=True)
            except KilledError:
                died += 1
        assert (log.read(0).data.decode(), log.is_complete) == (lines(0, 150), True)
    assert died >= 10


def test_a_copy_that_the_backend_left_goes_on_where_it_stood(
    backend: ScriptedBackend, log: RunLog, clock: Clock
) -> None:
    copies = LogCopies(every_s=0)
    backend.say(JOB, lines(0, 10))
    copies.copy(backend, JOB, log, clock(), ended=False)
    backend.say(JOB, lines(10, 20))
    backend.reachable = False
    with pytest.raises(UnreachableBackendError):
        copies.copy(backend, JOB, log, clock() + timedelta(seconds=60), ended=True)
    assert not log.is_complete
    backend.reachable = True
    assert copies.copy(backend, JOB, log, clock(), ended=True)
    assert log.read(0).data.decode() == lines(0, 20)


def test_parts_that_overlap_are_told_once_and_a_gap_is_filled(
    backend: ScriptedBackend, log: RunLog, clock: Clock
) -> None:
    text = lines(0, 60)
    backend.say(JOB, text)
    data = text.encode()
    # What is left where a storage ignores that a part exists, and two leaders wrote it.
    log.append(0, data[:70])
    log.append(56, data[56:140])
    log.append(300, data[300:])
    assert log.read(0).data == data[:140]
    assert log.end() == 140
    assert log.read(63).data == data[63:140]
    LogCopies().copy(backend, JOB, log, clock(), ended=True)
    assert log.read(0).data == data
