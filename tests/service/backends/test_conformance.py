"""What every backend promises, with real jobs: each test runs at each of them."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from service.backends.base import Answer, Job, LogPart
from tests.service.backends.places import Place, end_of, log_of, shell, until

_RAYS_OWN_LINES = re.compile(rb"Running entrypoint for job [^\n]*\n|[^\n]*Runtime env is setting up\.\n")


def starts(path: Path) -> int:
    return path.read_text().count("started") if path.exists() else 0


def waiting(folder: Path) -> Job:
    """A job that says that it was started, and ends when it is let."""
    return shell(f"echo started >> {folder}/starts; while [ ! -e {folder}/go ]; do sleep 0.05; done")


def test_a_repeated_submit_starts_nothing_whether_the_job_runs_or_has_ended(
    place: Place, job_id: str, tmp_path: Path
) -> None:
    backend = place.backend()
    assert backend.submit(job_id, waiting(tmp_path)) is True
    assert backend.submit(job_id, waiting(tmp_path)) is False
    until(lambda: starts(tmp_path / "starts") == 1)
    assert backend.submit(job_id, waiting(tmp_path)) is False
    (tmp_path / "go").touch()
    assert end_of(backend, job_id) == Answer("succeeded", 0)
    assert backend.submit(job_id, waiting(tmp_path)) is False
    # A second job from its start to its end: time enough for one that should not have been started.
    assert backend.submit(f"{job_id}2", shell("true")) is True
    assert end_of(backend, f"{job_id}2").status == "succeeded"
    assert starts(tmp_path / "starts") == 1
    assert end_of(backend, job_id) == Answer("succeeded", 0)


def test_of_two_processes_that_submit_one_id_at_once_one_starts_it(place: Place, job_id: str, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    racing = [place.elsewhere("submit", job_id, waiting(tmp_path)) for _ in range(2)]
    for process in racing:
        process.go()
    assert sorted(process.returned() for process in racing) == [False, True]
    assert end_of(place.backend(), job_id).status == "succeeded"
    assert place.backend().submit(f"{job_id}2", shell("true")) is True
    end_of(place.backend(), f"{job_id}2")
    assert starts(tmp_path / "starts") == 1


@pytest.mark.parametrize(
    ("script", "status", "exit_code"),
    [
        ("exit 0", "succeeded", 0),
        ("exit 3", "failed", 3),
        ("kill -KILL $$", "failed", -signal.SIGKILL),
        ("kill -TERM $$", "failed", -signal.SIGTERM),
    ],
)
def test_how_a_job_ended_is_told_to_the_exit_code(
    place: Place, job_id: str, script: str, status: str, exit_code: int
) -> None:
    backend = place.backend()
    backend.submit(job_id, shell(script))
    answer = end_of(backend, job_id)
    assert (answer.status, answer.exit_code) == (status, exit_code)


def test_a_program_that_is_not_there_is_a_failed_job_whose_log_names_it(place: Place, job_id: str) -> None:
    backend = place.backend()
    assert backend.submit(job_id, Job(["no-such-program", "--at-all"])) is True
    answer = end_of(backend, job_id)
    assert (answer.status, answer.exit_code) == ("failed", 127)
    assert b"no-such-program" in log_of(backend, job_id)


def test_an_unknown_job_is_absent_has_no_log_and_can_be_stopped(place: Place, job_id: str) -> None:
    backend = place.backend()
    assert backend.look(job_id) == Answer("absent")
    assert backend.log(job_id, 7) == LogPart(b"", 7)
    backend.stop(job_id)
    assert backend.look(job_id) == Answer("absent")


def test_a_job_that_is_stopped_twice_hears_it_once_and_ends_in_its_own_way(
    place: Place, job_id: str, tmp_path: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import os, signal, time\n"
        "heard = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n"
        "print('ready')\n"
        "while not heard:\n"
        "    time.sleep(0.02)\n"
        "print('saving')\n"
        f"while not os.path.exists('{tmp_path}/go'): time.sleep(0.02)\n"
        "time.sleep(0.3)\n"  # for a second signal to arrive
        "print('heard', len(heard))\n"
        "raise SystemExit(3)\n"
    )
    backend = place.backend()
    backend.submit(job_id, Job([sys.executable, str(script)]))
    until(lambda: b"ready\n" in log_of(backend, job_id))
    until(lambda: backend.look(job_id) == Answer("running"))  # which may be told after what it prints
    backend.stop(job_id)
    until(lambda: b"saving\n" in log_of(backend, job_id))
    backend.stop(job_id)
    (tmp_path / "go").touch()
    answer = end_of(backend, job_id)
    assert answer.status == "stopped"
    assert b"heard 1\n" in log_of(backend, job_id)
    backend.stop(job_id)
    assert backend.look(job_id) == answer


def test_a_job_that_does_not_heed_is_killed_after_the_grace_period_with_its_children(place: Place, job_id: str) -> None:
    backend = place.backend()
    backend.submit(job_id, shell("trap '' TERM; sleep 300 & echo pids $$ $!; while :; do sleep 0.05; done"))
    said = re.compile(rb"^pids (\d+) (\d+)$", re.MULTILINE)
    until(lambda: said.search(log_of(backend, job_id)) is not None)
    pids = said.findall(log_of(backend, job_id))[0]
    backend.stop(job_id)
    assert end_of(backend, job_id).status == "stopped"
    until(lambda: not any(_runs(int(pid)) for pid in pids))


def test_stopping_a_job_that_has_ended_leaves_it_as_it_is(place: Place, job_id: str) -> None:
    backend = place.backend()
    backend.submit(job_id, shell("true"))
    assert end_of(backend, job_id) == Answer("succeeded", 0)
    backend.stop(job_id)
    assert backend.look(job_id) == Answer("succeeded", 0)


def test_a_log_read_while_the_job_writes_loses_and_repeats_nothing(place: Place, job_id: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, time\n"
        "for number in range(3000):\n"
        "    print(f'line {number} ' + 'ö' * (number % 40), file=sys.stderr if number % 7 == 0 else sys.stdout)\n"
        "    if number % 5 == 0:\n"
        "        print('half', end='', flush=True); time.sleep(0.0005); print(' a line')\n"
        "print('no line break', end='', flush=True)\n"
    )
    backend = place.backend()
    backend.submit(job_id, Job([sys.executable, str(script)], {"PYTHONUNBUFFERED": "1"}))
    parts: list[bytes] = []
    offset, ended = 0, False
    while True:
        part = backend.log(job_id, offset)
        assert part.next_offset == offset + len(part.data)
        if ended and not part.data:
            break
        assert ended or not part.data or part.data.endswith((b"\n", b"no line break"))
        parts.append(part.data)
        offset = part.next_offset
        ended = ended or backend.look(job_id).ended
    assert len([part for part in parts if part]) > 2, "it was not read while it was written"
    expected = []
    for number in range(3000):
        expected.append(f"line {number} " + "ö" * (number % 40) + "\n")
        if number % 5 == 0:
            expected.append("half a line\n")
    expected.append("no line break")
    assert _RAYS_OWN_LINES.sub(b"", b"".join(parts)) == "".join(expected).encode()


def test_a_job_outlives_its_submitter_and_answers_any_process(place: Place, job_id: str, tmp_path: Path) -> None:
    job = shell(f"echo told; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 4")
    assert place.elsewhere("submit", job_id, job).called() is True  # that process is gone now
    backend = place.backend()
    until(lambda: backend.look(job_id) == Answer("running"))
    until(lambda: b"told\n" in log_of(backend, job_id))
    log = log_of(backend, job_id)
    told = place.elsewhere("log", job_id, 0).called()
    assert told["data"].startswith(log.decode())
    assert told["next_offset"] == len(told["data"].encode())
    assert place.elsewhere("look", job_id).called()["status"] == "running"
    (tmp_path / "go").touch()
    assert end_of(backend, job_id).exit_code == 4
    assert place.elsewhere("look", job_id).called()["exit_code"] == 4


def test_arguments_and_environment_arrive_as_they_are(place: Place, job_id: str) -> None:
    code = "import json, os, sys; print('got', json.dumps([sys.argv[1:], os.environ['GIVEN']]))"
    arguments = ["two words", "it's", '"$HOME"', "a;b|c&d", "*", "\\", "", "line\nbreak", "ö"]
    backend = place.backend()
    backend.submit(job_id, Job([sys.executable, "-c", code, *arguments], {"GIVEN": "a 'b' $C"}))
    assert end_of(backend, job_id).exit_code == 0
    got = re.search(rb"^got (\[.*)$", log_of(backend, job_id), re.MULTILINE)
    assert got is not None
    assert json.loads(got[1]) == [arguments, "a 'b' $C"]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
