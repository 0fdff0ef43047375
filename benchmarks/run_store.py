"""How long lists of runs take where there are many: first and hundredth page, by state, name, project and condition.

    python -m benchmarks.run_store --json docs/results/run-store.json

Two stores, in SQLite and in PostgreSQL, have the same runs: 10,000, each with nine events, two attempts and a progress.
Asked is the service as the API and `reco` ask it: a page of 50 with progress, and on first pages also how many runs are
in each state. Each question is asked several times in each round, in both databases by turns. The table has the rounds'
medians as median and range, and the 95th percentile of all, in milliseconds.

The last line is `reco runs list` as a whole command, its start included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import spread
from benchmarks.stored_runs import fill, percentile
from service.contract.interface import Runs, Wanted
from service.contract.messages import Identity
from service.control.control import Control
from service.runs.states import Condition, State
from service.settings import Settings
from tests.service.runs.postgres import serve_postgres

PAGE, FAR = 50, 100
AIM_MS = 200.0
QUESTIONS: Mapping[str, Wanted] = {
    "all": Wanted(),
    "state failed": Wanted(states=(State.FAILED,)),
    "state running (none is)": Wanted(states=(State.RUNNING,)),
    "name birds-*": Wanted(name="birds-*"),
    "name *s-7 (no index helps)": Wanted(name="*s-7"),
    "name that none has": Wanted(name="*nobody*"),
    "project maps": Wanted(project="maps"),
    "owner user7": Wanted(owner="user7"),
    "kind sweep": Wanted(kind="sweep"),
    "condition stalled": Wanted(condition=Condition.STALLED),
    "project, state and name": Wanted(project="vision", states=(State.SUCCEEDED,), name="*-3"),
}
Figures = dict[str, dict[str, list[list[float]]]]
"""Milliseconds by question, database and round."""


@contextlib.contextmanager
def stores(runs: int) -> Iterator[dict[str, tuple[Control, dict[str, str]]]]:
    """A full store in each database, and the environment in which `reco` uses it."""
    with tempfile.TemporaryDirectory(prefix="reco-store-", dir="/var/tmp") as work, contextlib.ExitStack() as stack:
        urls = {"SQLite": f"sqlite:///{work}/service.db", "PostgreSQL": stack.enter_context(serve_postgres())}
        opened = {}
        for name, url in urls.items():
            environment = {"RECO_HOME": f"{work}/{name}", "RECO_DATABASE": url}
            control = stack.enter_context(Control(Settings.from_environment(environment)))
            fill(control.database, runs, storage=f"{work}/runs")
            opened[name] = (control, environment)
            print(f"{name}: {runs} runs", file=sys.stderr, flush=True)
        yield opened


def far_page(runs: Runs) -> str:
    """Where the hundredth page begins."""
    after = None
    for _ in range(FAR - 1):
        after = runs.page(after=after, limit=PAGE).next
    assert after is not None, "there are too few runs for a hundredth page"
    return after


def measure(opened: Mapping[str, tuple[Control, dict[str, str]]], *, rounds: int, times: int) -> Figures:
    """Ask everything, by turns."""
    caller = Identity(owner="bench", role="admin", version="0")
    services = {name: control.service(caller).runs for name, (control, _) in opened.items()}
    cursors = {name: far_page(runs) for name, runs in services.items()}
    asked = [(name, wanted, False) for name, wanted in QUESTIONS.items()]
    asked.insert(1, (f"all, page {FAR}", Wanted(), True))
    figures: Figures = {what: {name: [] for name in services} for what, _, _ in asked}
    for _ in range(rounds):
        for what, wanted, is_far in asked:
            for name, runs in services.items():
                figures[what][name].append(
                    [timed(runs, wanted, cursors[name] if is_far else None) for _ in range(times)]
                )
    return figures


def timed(runs: Runs, wanted: Wanted, after: str | None) -> float:
    """Milliseconds of one question."""
    start = time.perf_counter()
    runs.page(wanted, after=after, limit=PAGE)
    return 1e3 * (time.perf_counter() - start)


def whole_command(environment: Mapping[str, str], times: int) -> list[float]:
    """Milliseconds of `reco runs list`, from its start to its end."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "service.cli.main", "runs", "list", "--json"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found.append(1e3 * (time.perf_counter() - start))
    return found


def joined(rounds: list[list[float]]) -> list[float]:
    """All of them in one list."""
    return [value for each in rounds for value in each]


def table(figures: Figures) -> str:
    """Both databases as Markdown."""
    names = list(next(iter(figures.values())))
    head = [f"{name}: {what}" for name in names for what in ("median (rounds)", "p95")]
    lines = [f"| list, ms | {' | '.join(head)} |", f"|---{'|---' * len(head)}|"]
    for what, by_database in figures.items():
        cells = []
        for name in names:
            rounds = by_database[name]
            cells += [spread([statistics.median(each) for each in rounds]), f"{percentile(joined(rounds), 95):.3g}"]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = parse()
    with stores(arguments.runs) as opened:
        figures = measure(opened, rounds=arguments.rounds, times=arguments.times)
        commands = {name: whole_command(told, arguments.rounds) for name, (_, told) in opened.items()}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(
        f"{machine}; {arguments.runs:,} runs; {arguments.rounds} rounds of {arguments.times} times each. The aim is "
        f"{AIM_MS:.0f} ms.\n\n{table(figures)}\n"
    )
    for name, ms in commands.items():
        print(f"`reco runs list` as a whole, {name}: {spread(ms)} ms")
    if arguments.json:
        found = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine,
            "runs": arguments.runs,
            "ms": {
                what: {
                    name: {
                        "medians": [statistics.median(each) for each in rounds],
                        "p95": percentile(joined(rounds), 95),
                        "longest": max(joined(rounds)),
                    }
                    for name, rounds in by_database.items()
                }
                for what, by_database in figures.items()
            },
            "command_ms": commands,
        }
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--json", help="write the figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
