"""Ends what the commands of a test have started: every run, and the leader with them."""

from __future__ import annotations

import time
from pathlib import Path

from service.contract.interface import Wanted
from service.control.control import Control, this_user
from service.runs.leadership import somebody_leads
from service.runs.leases import Leases
from service.runs.states import State
from service.settings import Settings

PATIENCE_S = 90.0


def end_all(home: Path) -> None:
    """Stop every run of the service in that home folder, and wait until its leader has nothing left to do."""
    with Control(Settings.from_environment({"RECO_HOME": str(home)})) as control:
        runs = control.service(this_user()).runs
        under_way = Wanted(states=[state for state in State if not state.is_final])
        for run in runs.page(under_way, limit=500).runs:
            runs.stop(run.id)
        deadline = time.monotonic() + PATIENCE_S
        while somebody_leads(Leases(control.database), control.database.clock):
            assert time.monotonic() < deadline, (home / "logs" / "leader.log").read_text()[-4000:]
            time.sleep(0.2)
