"""What benchmarks share: CPU seconds of a process and all that it started, and figures of several runs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(root: int | None = None) -> float:
    """CPU seconds, user and system, of a process and its living and ended descendants; this process by default."""
    stats: dict[int, tuple[int, float]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # Own time, and that of children which were waited for.
            stats[int(folder.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / _TICKS)
    total, waiting = 0.0, [root or os.getpid()]
    while waiting:
        process = waiting.pop()
        total += stats[process][1]
        waiting += [child for child, (parent, _) in stats.items() if parent == process]
    return total


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and range, as `1.23 (1.20–1.31)`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}g} ({low:.{digits}g}–{high:.{digits}g})"
