"""The check of one spec: what it will do, and whether this machine has the memory for its loaders."""

from __future__ import annotations

import json
import subprocess

import psutil

from service.child import python
from service.cli.checks.finding import Finding

_PATIENCE_S = 600.0


def of(spec: str) -> list[Finding]:
    """Steps and memory of a run, from its data; in a process of its own, since torch is slow to import."""
    ran = subprocess.run(python("jobs.plan", spec), capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    lines = ran.stdout.splitlines()
    if not lines:
        return [Finding("✗", "plan", f"{spec}: {(ran.stderr.splitlines() or ['no answer'])[-1]}")]
    found = json.loads(lines[-1])
    if "error" in found:
        return [Finding("✗", "plan", found["error"], found["hint"])]
    findings = [Finding("✓", "plan", found["words"])]
    wanted, free = found["loader_bytes"] * found["workers"], psutil.virtual_memory().available
    if wanted > free:
        findings.append(
            Finding(
                "!",
                "plan",
                f"loaders of {found['workers']} workers may take {wanted / 1e9:.1f} GB; here {free / 1e9:.1f} are free",
                "Fine on a cluster with more; else lower data.shuffle_shards or train.global_batch_size.",
            )
        )
    return findings
