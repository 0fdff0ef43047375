"""`reco top`: what is under way, once or kept up to date."""

from __future__ import annotations

import pytest

from service.control.control import Control
from tests.service.stored import PROGRESS, RECO, reco
from tests.service.stored import control as control
from tests.service.stored import environment as environment
from tests.service.stored import three as three
from tests.service.terminal import CTRL_C, at_terminal


@pytest.mark.usefixtures("three")
def test_top_shows_what_is_under_way() -> None:
    lines = reco("top").stdout.splitlines()
    assert lines[0].startswith("1 queued, 1 running · sqlite:///")
    row = next(line for line in lines if line.startswith(" now"))
    assert row.split()[:10] == [
        "now",
        "running",
        "training",
        "30/120",
        "(25%)",
        "1,234",
        "3.1%",
        "61.2",
        "%",
        "1:06:40",
    ]
    assert not any(line.startswith(" old") for line in lines)
    assert "sparrows" not in reco("top", "--project", "default").stdout
    assert len(reco("top", "--project", "birds").stdout.splitlines()) < len(lines)


def test_top_at_a_terminal_stays_until_ctrl_c(control: Control, three: None, environment: dict[str, str]) -> None:
    with at_terminal([*RECO, "top", "--every", "0.5"], environment) as terminal:
        terminal.wait_for("30/120 (25%)")
        control.store.save_progress("now", {**PROGRESS, "step": 60})
        terminal.wait_for("60/120 (50%)")
        terminal.press(CTRL_C)
        assert terminal.wait() == 0


@pytest.mark.usefixtures("control")
def test_nothing_under_way_is_said() -> None:
    assert reco("top").stdout.startswith("no run is under way · sqlite:///")
