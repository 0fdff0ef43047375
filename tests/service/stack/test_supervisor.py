"""Parts that come up in order, die, come back, are given up, taken over, and taken down: with processes of a moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.stack.layout import Layout
from service.stack.parts import Program
from service.stack.processes import Process, marked
from service.stack.record import PartRecord, Recorder, StackRecord, read
from service.stack.supervisor import Patience, Supervisor, take_down

QUICK = Patience(first_wait=0.01, longest_wait=0.02, deaths=3, calm=60.0, look=0.01, ask=0.02, ask_starting=0.02)
LIVING = "import time; time.sleep(600)"
DYING = "import sys; print('no room for me'); sys.exit(4)"
# Starts a child in a session of its own, as servers do, and tells its number.
WITH_CHILD = (
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
    "open({0!r}, 'w').write(str(child.pid)); time.sleep(600)"
)
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({0!r}, 'w').close(); time.sleep(600)"
)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    layout = Layout(tmp_path)
    layout.make(room=0)
    yield layout
    for process in marked(str(tmp_path)):
        process.kill()


def part(
    layout: Layout,
    name: str,
    code: str | Callable[[], str] = LIVING,
    *,
    needs: tuple[str, ...] = (),
    well: Callable[[Process], str | None] = lambda _: None,
) -> Program:
    text = code if callable(code) else lambda: code
    return Program(
        name,
        lambda: [sys.executable, "-c", text()],
        layout,
        environment=lambda: dict(os.environ),
        well=well,
        needs=needs,
    )


class Watched:
    """A supervisor in a thread, and what it notes."""

    def __init__(self, layout: Layout, *parts: Program, patience: Patience = QUICK) -> None:
        self.recorder = Recorder(layout.record, StackRecord())
        self.order: list[str] = []
        self.supervisor = Supervisor(
            parts, self.recorder, patience=patience, up=lambda part: self.order.append(part.name)
        )

    @contextmanager
    def running(self, taken_over: Mapping[str, Process] | None = None) -> Iterator[None]:
        thread = threading.Thread(target=self.supervisor.run, args=(taken_over or {},))
        thread.start()
        try:
            yield
        finally:
            self.supervisor.let_go()
            thread.join()

    def of(self, name: str) -> PartRecord:
        return self.recorder.record.parts.get(name, PartRecord())

    def process(self, name: str) -> Process:
        process = self.of(name).process
        assert process is not None
        return process

    def until(self, name: str, state: str, **more: object) -> PartRecord:
        deadline = time.monotonic() + 60
        while True:
            known = self.of(name)
            if known.state == state and all(getattr(known, field) == value for field, value in more.items()):
                return known
            assert time.monotonic() < deadline, known
            time.sleep(0.01)


def test_a_part_is_started_when_those_it_needs_are_up(layout: Layout) -> None:
    let = threading.Event()
    first = part(layout, "first", well=lambda _: None if let.is_set() else "not yet")
    watched = Watched(layout, part(layout, "second", needs=("first",)), first)
    with watched.running():
        watched.until("first", "starting", words="not yet")
        assert watched.until("second", "waiting", words="waits for first").process is None
        let.set()
        watched.until("second", "up")
    assert watched.order == ["first", "second"]


def test_a_part_that_is_killed_comes_back_and_the_others_stay(layout: Layout) -> None:
    watched = Watched(layout, part(layout, "one"), part(layout, "two"))
    with watched.running():
        watched.until("one", "up")
        watched.until("two", "up")
        before, other = watched.process("one"), watched.process("two")
        before.signal(signal.SIGKILL)
        watched.until("one", "up", restarts=1)
        assert watched.process("one") != before
        assert watched.process("one").alive
        assert watched.process("two") == other


def test_a_part_that_keeps_dying_is_given_up_with_its_last_words_and_tried_again_on_request(layout: Layout) -> None:
    code = [DYING]
    watched = Watched(layout, part(layout, "sick", lambda: code[0]), part(layout, "well"))
    with watched.running():
        lost = watched.until("sick", "failed")
        assert lost.words == "no room for me"
        assert layout.log("sick").read_text().count("no room for me") == QUICK.deaths
        watched.until("well", "up")
        code[0] = LIVING
        watched.supervisor.try_again()
        watched.until("sick", "up")


def test_a_part_that_cannot_be_started_is_told_like_one_that_died(layout: Layout) -> None:
    missing = Program("none", lambda: ["/no/such/program"], layout, environment=dict, well=lambda _: None)
    watched = Watched(layout, missing)
    with watched.running():
        assert "No such file" in watched.until("none", "failed").words


def test_the_wait_doubles_with_each_death_up_to_a_limit() -> None:
    patience = Patience(first_wait=1, longest_wait=5)
    assert [patience.wait(deaths) for deaths in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, 5]


def test_a_part_that_was_well_for_long_begins_to_count_anew(layout: Layout) -> None:
    code = "import time; time.sleep(0.3)"
    calm = Patience(first_wait=0.01, longest_wait=0.01, deaths=2, calm=0.0, look=0.01, ask=0.01, ask_starting=0.01)
    watched = Watched(layout, part(layout, "mortal", code), patience=calm)
    with watched.running():
        deadline = time.monotonic() + 60
        while layout.log("mortal").read_text().count("started by") < 4 if layout.log("mortal").exists() else True:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert watched.of("mortal").state != "failed"


def test_a_part_that_is_up_and_does_not_answer_is_told_and_not_touched(layout: Layout) -> None:
    answers: list[str | None] = [None]
    watched = Watched(layout, part(layout, "silent", well=lambda _: answers[0]))
    with watched.running():
        watched.until("silent", "up", words="")
        before = watched.process("silent")
        answers[0] = "no answer"
        watched.until("silent", "up", words="no answer")
        answers[0] = None
        watched.until("silent", "up", words="")
        assert watched.process("silent") == before


def test_what_still_runs_is_taken_over_by_the_next_supervisor(layout: Layout) -> None:
    first = Watched(layout, part(layout, "one"))
    with first.running():
        first.until("one", "up")
    process = first.process("one")
    assert process.alive
    next_one = Watched(layout, part(layout, "one"))
    with next_one.running({"one": process}):
        next_one.until("one", "up")
        assert next_one.process("one") == process
    assert layout.log("one").read_text().count("started by") == 1


def test_what_was_started_and_never_noted_is_ended_before_another_is_started(layout: Layout) -> None:
    """As after a supervisor that was killed between the two."""
    unnoted = part(layout, "one").start(threading.Event())
    assert unnoted is not None
    watched = Watched(layout, part(layout, "one"))
    with watched.running():
        watched.until("one", "up")
        assert not unnoted.alive
        assert len(marked(str(layout.home), "one")) == 1


def test_taking_down_ends_parts_in_order_with_all_that_they_started(layout: Layout, tmp_path: Path) -> None:
    child = tmp_path / "child"
    parts = [part(layout, "ray", WITH_CHILD.format(str(child))), part(layout, "api"), part(layout, "leader")]
    watched = Watched(layout, *parts)
    with watched.running():
        for name in ("ray", "api", "leader"):
            watched.until(name, "up")
        deadline = time.monotonic() + 60
        while not (child.exists() and child.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    seen: dict[str, bool] = {}
    processes = {name: watched.process(name) for name in ("ray", "api", "leader")}
    take_down(parts, watched.recorder, lambda: seen.update({name: each.alive for name, each in processes.items()}))
    assert seen == {"ray": True, "api": False, "leader": False}, "runs are saved when nobody starts them, and Ray is up"
    assert not any(each.alive for each in processes.values())
    assert Process.of(int(child.read_text())) is None
    assert {each.state for each in read(layout.record).parts.values()} == {"stopped"}


def test_a_part_that_does_not_want_to_end_is_killed_after_its_grace_period(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "grace_s", 0.1)
    ready = tmp_path / "ready"
    deaf = part(layout, "deaf", STUBBORN.format(str(ready)))
    process = deaf.start(threading.Event())
    assert process is not None
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    deaf.stop(process)
    assert not process.alive


@pytest.mark.parametrize("of", ["another life of the machine", "a number given again"])
def test_a_recorded_number_that_is_another_process_now_is_never_signalled(layout: Layout, of: str) -> None:
    with subprocess.Popen([sys.executable, "-c", LIVING]) as stranger:
        now = Process.of(stranger.pid)
        assert now is not None
        changed = {"boot": "earlier"} if of == "another life of the machine" else {"ticks": now.ticks - 1}
        recorded = now.model_copy(update=changed)
        assert not recorded.alive
        assert recorded.signal(signal.SIGKILL) is False
        part(layout, "one").stop(recorded)
        assert stranger.poll() is None
        stranger.kill()


def test_jobs_that_inherited_a_parts_marks_outlive_it(layout: Layout) -> None:
    """A leader's jobs on this machine have its environment, and are not its remains."""
    environment = {**os.environ, "RECO_STACK": str(layout.home), "RECO_STACK_PART": "leader"}
    with subprocess.Popen([sys.executable, "-c", LIVING], env=environment) as job:
        leader = Program(
            "leader",
            lambda: [sys.executable, "-c", f"'service.leader'; {LIVING}"],
            layout,
            environment=lambda: dict(os.environ),
            well=lambda _: None,
            words="service.leader",
        )
        process = leader.start(threading.Event())
        leader.stop(process)
        assert job.poll() is None
        assert process is not None
        assert not process.alive
        job.kill()
