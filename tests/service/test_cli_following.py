"""What a signal means to a command that watches a run: a wish, heard at any moment, and never more than was meant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
import typer

from service.cli import connect
from service.cli.following import Follower
from service.cli.interrupts import Interrupts
from service.cli.live import LiveRun
from service.control.control import Control, this_user
from service.runs.states import State
from tests.service.stored import control as control
from tests.service.stored import three as three

INSIDE = """
import signal
from service.cli.interrupts import Interrupts
with Interrupts() as heard:
    with heard._heard._cond:  # where a wait is for a moment, with the lock
        signal.raise_signal(signal.SIGTERM)
    print(heard.wait(10), heard.told_to_end)
"""


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("viewing", "state"), [(True, State.RUNNING), (False, State.STOPPING)])
def test_whoever_only_looks_at_a_run_does_not_stop_it(
    control: Control, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, viewing: bool, state: State
) -> None:
    monkeypatch.setattr(connect, "work_on", lambda: False)
    runs, told = control.service(this_user()).runs, [number] if viewing else [number, number]
    begun = threading.Event()

    class Shown(LiveRun):
        def __enter__(self) -> Shown:
            begun.set()
            return self

        def say(self, text: str, style: str = "") -> None:
            if text.startswith("saving and stopping"):
                os.kill(os.getpid(), told.pop())

        def show(self, run: object) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    def press() -> None:
        begun.wait(30)
        os.kill(os.getpid(), told.pop())

    presser = threading.Thread(target=press)
    presser.start()
    follower = Follower(runs, "now", Shown(since=datetime.now(UTC)), viewing=viewing)
    with pytest.raises(typer.Exit if viewing else KeyboardInterrupt):
        follower.follow()
    presser.join()
    assert control.store.get("now").state is state


def test_a_signal_is_heard_while_a_wait_holds_its_lock() -> None:
    ran = subprocess.run([sys.executable, "-c", INSIDE], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "True True\n", ran.stderr


def test_the_second_signal_leaves_at_once_unless_the_first_was_answered() -> None:
    with Interrupts() as heard:
        signal.raise_signal(signal.SIGINT)
        assert heard.wait(10)
        heard.forget()
        assert not heard.wait(0)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
