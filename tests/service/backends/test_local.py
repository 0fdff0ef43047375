"""What is this machine's own: processes that are killed at any point, process ids used again, and restarts."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service.backends.base import Answer, BackendError, Job, LogPart, UnreachableBackendError
from service.backends.local import LocalBackend
from service.backends.local_wrapper import boot_id, start_ticks
from service.runs.retry import Cause, Evidence, classify
from tests.service.backends.places import Place, end_of, log_of, shell, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def backend(folder: Path) -> LocalBackend:
    return LocalBackend(folder, grace_s=2)


def test_a_job_whose_submitter_died_before_starting_it_is_absent_and_started_once_by_the_next(
    backend: LocalBackend, folder: Path, tmp_path: Path
) -> None:
    (folder / "run-a1").mkdir()
    (folder / "run-a1" / "lock").touch()
    assert backend.look("run-a1") == Answer("absent")
    job = shell(f"echo started >> {tmp_path}/starts")
    racing = [Place("local", str(folder)).elsewhere("submit", "run-a1", job) for _ in range(3)]
    for process in racing:
        process.go()
    assert sorted(process.returned() for process in racing) == [False, False, True]
    assert end_of(backend, "run-a1").status == "succeeded"
    assert (tmp_path / "starts").read_text() == "started\n"


def test_submitters_killed_at_any_moment_start_each_job_once(
    backend: LocalBackend, folder: Path, tmp_path: Path
) -> None:
    chance = random.Random(7)
    for number in range(12):
        job_id, starts = f"run{number}-a1", tmp_path / f"starts{number}"
        job = shell(f"echo started >> {starts}; sleep 0.3")
        killed = Place("local", str(folder)).elsewhere("submit", job_id, job)
        killed.go()
        time.sleep(chance.uniform(0, 0.06))  # a submit takes about this long
        killed.process.kill()
        backend.submit(job_id, job)
        killed.process.communicate()
        assert end_of(backend, job_id).status == "succeeded"
        assert starts.read_text() == "started\n"


def test_a_job_that_another_process_is_starting_is_pending(backend: LocalBackend, folder: Path) -> None:
    (folder / "run-a1").mkdir()
    with (folder / "run-a1" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert backend.look("run-a1").status == "pending"
    assert backend.look("run-a1") == Answer("absent")


def test_a_job_goes_with_the_process_that_watches_over_it_and_has_failed(backend: LocalBackend, folder: Path) -> None:
    backend.submit("run-a1", shell("echo pid $$; while :; do sleep 0.05; done"))
    until(lambda: b"pid" in log_of(backend, "run-a1"))
    job = psutil.Process(int(log_of(backend, "run-a1").split()[1]))
    os.kill(_watcher(folder), signal.SIGKILL)
    answer = end_of(backend, "run-a1")
    assert (answer.status, answer.exit_code) == ("failed", None)
    assert "was killed" in answer.words
    until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)
    assert backend.submit("run-a1", shell("true")) is False


def test_a_process_with_the_id_of_one_that_died_is_neither_taken_for_it_nor_stopped(
    backend: LocalBackend, folder: Path
) -> None:
    other = subprocess.Popen(["sleep", "300"])
    try:
        _pretend_started(folder, boot=boot_id(), pid=other.pid, ticks=(start_ticks(other.pid) or 0) - 1)
        assert backend.look("run-a1").status == "failed"
        backend.stop("run-a1")
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
    finally:
        other.kill()
        other.wait()


def test_after_a_restart_of_the_machine_its_jobs_are_lost_with_their_host(backend: LocalBackend, folder: Path) -> None:
    _pretend_started(folder, boot="another", pid=os.getpid(), ticks=start_ticks(os.getpid()) or 0)
    answer = backend.look("run-a1")
    assert (answer.status, answer.exit_code) == ("failed", None)
    assert classify(Evidence(message=answer.words)).cause is Cause.NODE_LOST
    backend.stop("run-a1")  # not this process, whose id it is


def test_a_submitter_that_ignores_signals_does_not_pass_that_on(folder: Path, backend: LocalBackend) -> None:
    job = Job(["sh", "-c", "echo ready; while :; do sleep 0.05; done"])
    code = (
        "import signal, sys, json\n"
        "from pathlib import Path\n"
        "from service.backends.base import Job\n"
        "from service.backends.local import LocalBackend\n"
        "for number in (signal.SIGTERM, signal.SIGCHLD): signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "LocalBackend(Path(sys.argv[1]), grace_s=60).submit('run-a1', Job(json.loads(sys.argv[2])))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), json.dumps(job.command)], check=True)
    until(lambda: log_of(backend, "run-a1") == b"ready\n")
    backend.stop("run-a1")
    assert end_of(backend, "run-a1") == Answer("stopped", -signal.SIGTERM)


def test_what_a_job_leaves_behind_ends_with_it(backend: LocalBackend) -> None:
    backend.submit("run-a1", shell("sleep 300 & echo pid $!"))
    assert end_of(backend, "run-a1") == Answer("succeeded", 0)
    pid = int(log_of(backend, "run-a1").split()[1])
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_killed_job_says_how_long_it_was_waited_for(backend: LocalBackend) -> None:
    backend.submit("run-a1", shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
    until(lambda: log_of(backend, "run-a1") == b"ready\n")
    backend.stop("run-a1")
    answer = end_of(backend, "run-a1")
    assert answer == Answer("stopped", -signal.SIGKILL, "it had not ended 2 s after it was asked to, and was killed")


def test_a_submitter_has_no_children_to_reap(backend: LocalBackend) -> None:
    before = psutil.Process().children()
    backend.submit("run-a1", shell("true"))
    end_of(backend, "run-a1")
    assert psutil.Process().children() == before


def test_a_job_has_the_variables_of_its_submitter_under_its_own(
    backend: LocalBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_THE_PLACE", "secret-1")
    monkeypatch.setenv("BOTH", "place")
    backend.submit("run-a1", shell("echo $FROM_THE_PLACE $BOTH", BOTH="job"))
    end_of(backend, "run-a1")
    assert log_of(backend, "run-a1") == b"secret-1 job\n"
    assert "secret-1" not in (folder / "run-a1" / "job.json").read_text()


def test_a_long_log_comes_in_parts_of_whole_lines(backend: LocalBackend) -> None:
    code = "for n in range(30000): print(n, 'x' * 100)\nprint('y' * 3_000_000)\nprint('end', end='')"
    backend.submit("run-a1", Job([sys.executable, "-c", code], {"PYTHONUNBUFFERED": ""}))
    end_of(backend, "run-a1")
    parts: list[LogPart] = [LogPart(b"", 0)]
    while (part := backend.log("run-a1", parts[-1].next_offset)).data:
        assert part.data.endswith((b"\n", b"end"))
        parts.append(part)
    whole = "".join(f"{n} {'x' * 100}\n" for n in range(30000)) + "y" * 3_000_000 + "\nend"
    assert b"".join(part.data for part in parts).decode() == whole
    assert len(parts) > 4


def test_a_job_is_forgotten_once_it_has_ended(backend: LocalBackend, folder: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    backend.submit("run-a1", shell(f"while [ ! -e {go} ]; do sleep 0.05; done; echo told"))
    backend.forget("run-a1")
    assert backend.look("run-a1") == Answer("running")
    go.touch()
    end_of(backend, "run-a1")
    assert backend.kept() == ["run-a1"]
    backend.forget("run-a1")
    backend.forget("run-a1")
    assert (backend.kept(), list(folder.iterdir())) == ([], [])
    assert (backend.look("run-a1"), backend.log("run-a1", 0)) == (Answer("absent"), LogPart(b"", 0))


@pytest.mark.parametrize("job_id", ["", ".", "..", "../other", "a/b", "-a", "a b", "x" * 300])
def test_an_id_that_is_no_name_of_a_folder_is_refused(backend: LocalBackend, folder: Path, job_id: str) -> None:
    with pytest.raises(BackendError, match="cannot be the id"):
        backend.submit(job_id, shell("true"))
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_gone_says_nothing_of_its_jobs(backend: LocalBackend, folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    with pytest.raises(UnreachableBackendError):
        backend.look("run-a1")
    with pytest.raises(UnreachableBackendError):
        backend.submit("run-a1", shell("true"))


def test_a_folder_that_cannot_be_made_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnreachableBackendError, match=re.escape(str(tmp_path / "file"))):
        LocalBackend(tmp_path / "file" / "jobs")


def _watcher(folder: Path) -> int:
    return int(json.loads((folder / "run-a1" / "started.json").read_text())["pid"])


def _pretend_started(folder: Path, **started: object) -> None:
    (folder / "run-a1").mkdir()
    (folder / "run-a1" / "started.json").write_text(json.dumps(started))
