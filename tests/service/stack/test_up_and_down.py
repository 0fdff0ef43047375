"""`reco up` and `reco down` as a person has them: twice, killed at any point, interrupted, leaving nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from service.cli.stack_shown import is_well
from service.stack import processes
from tests.service.stack.conftest import Stack, end

UP = ("up", "--without-ray")


def asked(stack: Stack, path: str) -> dict[str, object]:
    """What the API answers to the stack's own token."""
    token = stack.layout.token.read_text().strip()
    request = urllib.request.Request(f"{stack.part('api').url}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def test_a_stack_comes_up_once_survives_kills_and_leaves_nothing_behind(stack: Stack) -> None:
    said = stack.reco(*UP)
    assert stack.part("api").url in said
    assert str(stack.layout.exports) in said
    assert asked(stack, "/v1/me")["role"] == "admin"
    assert stack.record.told == {
        "RECO_DATABASE": f"sqlite:///{stack.home}/service.db",
        "RECO_STORAGE": f"{stack.home}/runs",
        "MLFLOW_TRACKING_URI": stack.given["MLFLOW_TRACKING_URI"],
    }
    before = {name: stack.pid(name) for name in ("supervisor", "leader", "api")}

    stack.reco("up")  # finds what runs
    assert {name: stack.pid(name) for name in before} == before
    assert "with other options" in stack.reco("up", "--s3", str(stack.home), code=2)
    assert json.loads(stack.reco("up", "--status", "--json").split("\n\n")[0])["well"] is True

    stack.kill("api")  # comes back by itself
    stack.until(lambda record: is_well(record) and stack.pid("api") != before["api"])
    assert asked(stack, "/v1/me")["role"] == "admin"
    assert stack.pid("leader") == before["leader"]

    stack.kill("supervisor")  # the parts go on, and the next `up` takes them over
    assert "supervisor was killed" in stack.reco("up", "--status", code=1)
    api = stack.pid("api")
    stack.reco("up")
    assert (stack.pid("leader"), stack.pid("api")) == (before["leader"], api)

    stack.kill("supervisor")  # and so does `down`
    stack.reco("down")
    assert stack.left() == []
    assert "was not running" in stack.reco("down")
    assert "not running" in stack.reco("up", "--status", code=1)


def test_ctrl_c_while_it_comes_up_leaves_nothing_half_started(stack: Stack) -> None:
    up = stack.begin(*UP)
    stack.until(lambda record: "api" in record.parts and record.parts["api"].process is not None)
    up.send_signal(signal.SIGINT)
    _, said = up.communicate(timeout=120)
    assert up.returncode == 130
    assert "stopping what was started" in said
    assert stack.left() == []
    assert stack.record.phase == "down"


def test_what_keeps_it_from_starting_is_one_clear_error(stack: Stack) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        said = stack.reco(*UP, "--port", str(port), code=1)
    assert f"port {port} is taken by process {os.getpid()}" in said
    stack.given["RECO_DATABASE"] = "no-database"
    assert "error: " in stack.reco(*UP, code=1)
    assert stack.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["supervisor", "leader", "api"])
def test_up_killed_at_any_point_is_finished_by_the_next(stack: Stack, seen: str) -> None:
    first = stack.begin(*UP)
    stack.until(
        lambda record: (
            record.supervised
            if seen == "supervisor"
            else seen in record.parts and record.parts[seen].process is not None
        )
    )
    first.kill()
    first.communicate()
    stack.reco("up", "--without-ray")
    assert is_well(stack.record)
    supervisors = [command for command in stack.left() if "service.stack" in command]
    assert len(supervisors) == 1
    stack.reco("down")
    assert stack.left() == []


@pytest.mark.slow
def test_up_and_its_supervisor_killed_together_leave_what_the_next_can_use(stack: Stack) -> None:
    first = stack.begin(*UP)
    stack.until(lambda record: "leader" in record.parts and record.parts["leader"].process is not None)
    first.kill()
    stack.kill("supervisor")
    first.communicate()
    stack.layout.record.unlink()  # and the record with them: what is not known is ended and started anew
    stack.reco(*UP)
    assert len(processes.marked(str(stack.home), "leader", "service.leader")) == 1
    stack.reco("down")
    assert stack.left() == []


@pytest.mark.slow
def test_two_that_begin_at_once_bring_up_one_stack(stack: Stack) -> None:
    both = [stack.begin(*UP) for _ in range(2)]
    for each in both:
        each.communicate(timeout=120)
    assert [each.returncode for each in both] == [0, 0]
    assert len(processes.marked(str(stack.home), "api", "service.api")) == 1


@pytest.mark.slow
def test_in_the_foreground_it_ends_with_its_command(stack: Stack) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        command = stack.begin(*UP, "--foreground")
        stack.until(is_well)
        assert "in the background" in stack.reco("up", "--foreground", code=2)
        command.send_signal(number)
        command.communicate(timeout=120)
        assert command.returncode == (-number if number == signal.SIGKILL else 0)
        stack.until(lambda record: record.phase == "down" and stack.left() == [])


@pytest.mark.slow
def test_a_part_that_cannot_live_is_given_up_with_its_last_words_and_all_goes_down_again(stack: Stack) -> None:
    stack.given["RECO_RATE_LIMIT"] = "many"
    said = stack.reco(*UP, code=1)
    assert "RECO_RATE_LIMIT" in said
    assert str(stack.layout.log("api")) in said
    assert stack.left() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_stack_with_ray_and_s3_goes_on_where_it_stood(home: Path) -> None:
    from service.client import connect
    from service.contract.messages import Submission
    from service.runs.states import State
    from tests.pictures import tiny_spec, write_shards

    stack = Stack(home)
    buckets = home / "buckets"
    (buckets / "pictures").mkdir(parents=True)
    try:
        stack.reco("up", "--s3", str(buckets), "--cpus", "2")
        assert [*stack.record.parts] == ["mlflow", "s3", "ray", "leader", "api"]
        assert all(each in ("127.0.0.1", "::ffff:127.0.0.1") for each in _listening(stack)), "on this machine only"

        spec = tiny_spec(write_shards(home / "shards", samples=160), train__epochs=3000)
        token = stack.layout.token.read_text().strip()
        with connect(stack.part("api").url, token) as service:
            run = service.runs.submit(Submission(spec=spec)).id
            _until(lambda: (service.runs.show(run).progress or {}).get("step", 0) > 20)
        stack.reco("down")
        assert stack.left() == []
        assert json.loads((home / "runs" / run / "outcome.json").read_text())["status"] == "stopped"
        stood = max(int(each.name.split("-")[1]) for each in (home / "runs" / run / "checkpoints").iterdir())

        stack.reco("up", "--s3", str(buckets), "--cpus", "2")
        with connect(stack.part("api").url, token) as service:
            _until(lambda: service.runs.show(run).attempts == 2)
            _until(lambda: (service.runs.show(run).progress or {}).get("step", 0) > stood)
            kinds = [event.kind for event in service.runs.events(run)]
            assert kinds.count("lost") == 1
            for raylet in processes.marked(str(home), "ray", "raylet/raylet"):
                raylet.kill()
            head = stack.pid("ray")
            stack.until(lambda record: is_well(record) and stack.pid("ray") != head)
            _until(lambda: service.runs.show(run).attempts == 3)
            service.runs.stop(run)
            _until(lambda: service.runs.show(run).state is State.CANCELLED)
        stack.reco("down", "--wait")
        assert stack.left() == []
    finally:
        end(stack)


def _listening(stack: Stack) -> set[str]:
    found = set()
    for process in processes.marked(str(stack.home)):
        for each in process.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN:
                found.add(each.laddr.ip)
    assert found
    return found


def _until(holds: object, patience_s: float = 240.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)
