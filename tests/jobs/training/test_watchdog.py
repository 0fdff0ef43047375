"""A rank that hangs is named, keeps its stacks, and ends; one that works is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from jobs.run_folder import RunFolder, Stall
from jobs.training.timing import PHASES
from jobs.training.watchdog import EXIT_CODE, ORDER, Watchdog, culprit, described

HANG = """
import sys, time
from jobs.run_folder import RunFolder
from jobs.training.watchdog import Watchdog

def wait_for_a_rank_that_never_comes():
    time.sleep(1000)

with Watchdog(RunFolder(sys.argv[1], "r"), rank=3, limit_s=0.5) as watchdog:
    watchdog.enter("backward", 41)
    wait_for_a_rank_that_never_comes()
"""


def test_a_process_that_hangs_is_named_and_ends(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", HANG, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == EXIT_CODE
    (stall,) = RunFolder(str(tmp_path), "r").stalls()
    assert (stall["rank"], stall["step"], stall["phase"]) == (3, 41, "backward")
    assert "wait_for_a_rank_that_never_comes" in stall["stacks"]
    assert "after step 41, in phase backward" in described(stall)


def test_it_ends_even_where_the_report_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("a file where the run's folder should be")
    ran = subprocess.run([sys.executable, "-c", HANG, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == EXIT_CODE
    assert "wait_for_a_rank_that_never_comes" in ran.stderr


def test_the_rank_that_got_least_far_held_up_the_others() -> None:
    def at(rank: int, step: int, phase: str) -> Stall:
        return {
            "rank": rank, "host": "h", "pid": 1, "step": step, "phase": phase, "seconds": 60.0, "stacks": "",
        }  # fmt: skip

    assert culprit([at(0, 9, "forward"), at(1, 9, "wait"), at(2, 9, "backward")])["rank"] == 1
    assert culprit([at(0, 9, "wait"), at(1, 8, "saving")])["rank"] == 1
    assert set(PHASES) < set(ORDER)


def test_progress_keeps_it_quiet(tmp_path: Path) -> None:
    ended = threading.Event()
    folder = RunFolder(str(tmp_path), "r")
    with Watchdog(folder, rank=0, limit_s=2.0, end=lambda _: ended.set()) as watchdog:
        for step in range(30):
            watchdog.enter("wait", step)
            time.sleep(0.1)
    assert not ended.is_set()
    assert folder.stalls() == []
