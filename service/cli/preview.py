"""`reco sweep preview`: what a sweep will cost, after its base was measured."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any

from jobs.errors import RecoError
from service.child import python
from service.cli import output
from service.cli.home import home
from service.cli.options import AsJson, Overrides, SweepFile, set_flags


def preview(spec: SweepFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a sweep will cost, after measuring its base for about half a minute.

    Examples:
    - `reco sweep preview examples/sweeps/cifar10-cpu.yaml`

    - `reco sweep preview sweep.yaml --set trials=40 --json`
    """
    from jobs.job_folder import error_of
    from jobs.spec import load_sweep

    load_sweep(spec, overrides or [])
    output.note("measuring the base for about half a minute")
    with tempfile.TemporaryDirectory(prefix="reco-preview-", ignore_cleanup_errors=True) as temporary:
        command = python("jobs.sweep", "preview", str(spec), "--id", "preview", "--storage", temporary)
        command += ["--home", str(home()), *set_flags(overrides)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines()
    if not lines:
        raise RecoError(f"the preview ended without a word: {(ran.stderr.splitlines() or ['no output'])[-1]}")
    found = json.loads(lines[-1])
    if "error" in found:
        raise error_of(found)
    if as_json:
        output.emit(found)
        return
    _show_preview(found)


def _show_preview(found: dict[str, Any]) -> None:
    wall, low, high = (_duration(found[name]) for name in ("wall_s", "low_wall_s", "high_wall_s"))
    early, at_once = found["configurations_early"], found["concurrency"]
    lines = {
        "trials": f"{found['trials']}, {at_once} at a time; about {early:.0f} are stopped early",
        "judged": f"at rungs after epochs {', '.join(map(str, found['rungs']))}",
        "epochs": f"{found['total_epochs']:.0f} in all, likely {found['low_epochs']:.0f} to {found['high_epochs']:.0f}",
        "wall time": f"{wall}, likely {low} to {high}",
        "GPU-hours": f"{found['gpu_hours']:.1f}",
        "storage": f"up to {found['storage_bytes'] / 1e9:.1f} GB of checkpoints",
        "memory": f"{found['host_bytes'] / 1e9:.1f} GB a worker, {found['gpu_bytes'] / 1e9:.1f} GB on its GPU",
        "measured": f"{found['step_s']:.3f} s a step, {found['probe_s']:.1f} s a judgement, "
        f"{found['around_s']:.0f} s around each run",
    }
    for name, words in lines.items():
        output.say(f"{name:<11} {words}")
    for warning in found["warnings"]:
        output.say(f"! {warning}")


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.1f} h"
