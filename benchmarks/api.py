"""Requests a second of the API on this machine, with the leader beside it and 100 live runs.

    python -m benchmarks.api --json docs/results/api.json

`python -m service.api` and `python -m service.leader` run as a user starts them, over 10,000 runs that have ended and
100 that live: each of those is a process of the local backend that sleeps, and a folder whose progress changes every
few seconds. Clients on the same cores, so their own CPU is part of it, keep connections alive and ask what pages and
commands ask: lists, single runs, events, logs.

Each round has two parts. In `steady`, requests come at a fixed rate whether or not earlier ones are answered, and how
long one takes counts from when it was due. In `flat out`, each of 16 connections asks again as soon as it is answered.
Rounds with and without the leader go by turns: their ratio is what it costs. CPU is that of the API's process for each
request, which says how many there could be where nothing else wants the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from benchmarks.api_load import ENDED, LIVE, Part, flat_out, steady
from benchmarks.measure import spread, tree_cpu_s
from benchmarks.stored_runs import SPEC, fill, percentile, progress_of
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec, to_yaml
from service.backends.base import Job
from service.backends.local import LocalBackend
from service.control.control import Control
from service.runs.records import NewRun
from service.runs.states import Signal
from service.settings import Settings
from tests.service.runs.postgres import serve_postgres

PROGRESS_S = 5.0


@dataclass(frozen=True)
class Served:
    """A running API."""

    port: int
    pid: int
    token: str
    environment: dict[str, str]


@contextlib.contextmanager
def served(database: str) -> Iterator[Served]:
    """An API over a full store with live runs, none of it there afterwards."""
    with tempfile.TemporaryDirectory(prefix="reco-api-", dir="/var/tmp") as work, contextlib.ExitStack() as stack:
        own = {"RECO_HOME": f"{work}/home", "RECO_RATE_LIMIT": "0"}
        if database == "postgresql":
            own["RECO_DATABASE"] = stack.enter_context(serve_postgres())
        with Control(Settings.from_environment(own)) as control:
            fill(control.database, ENDED, storage=control.settings.storage)
            folders = stack.enter_context(live_runs(control))
            token = control.tokens_store.issue(name="bench", owner="bench", role="admin")[0]
        stack.enter_context(training(folders))
        environment = {**os.environ, **own}
        command = [sys.executable, "-m", "service.api", "--port", "0"]
        api = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert api.stderr is not None
            port = next(found for line in api.stderr if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
            threading.Thread(target=api.stderr.read, daemon=True).start()
            yield Served(int(port[1]), api.pid, token, environment)
        finally:
            api.terminate()
            api.wait(30)


@contextlib.contextmanager
def live_runs(control: Control) -> Iterator[list[RunFolder]]:
    """Runs that the store and the local backend both say are running."""
    spec, settings = parse_spec(SPEC), control.settings
    backend = LocalBackend(settings.home / "jobs", grace_s=5)
    folders = []
    move = functools.partial(control.store.move, words="as the benchmark says", actor="bench")
    try:
        for number in range(LIVE):
            new = NewRun(f"live-{number}", spec.name, to_yaml(spec), spec.hash, "bench", storage=settings.storage)
            begun = move(control.store.create(new), Signal.BEGIN, backend=backend.name)
            backend.submit(f"{new.id}-a1", Job(["sh", "-c", "echo step 1; exec sleep 86400"]))
            move(begun, Signal.RUNNING)
            folders.append(RunFolder(settings.storage, new.id))
        print(f"{LIVE} live runs", file=sys.stderr, flush=True)
        yield folders
    finally:
        for number in range(LIVE):
            backend.stop(f"live-{number}-a1")


@contextlib.contextmanager
def training(folders: list[RunFolder]) -> Iterator[None]:
    """Let live runs say every few seconds how far they are."""
    done = threading.Event()

    def train() -> None:
        for step in itertools.count(1):
            for folder in folders:
                folder.storage.write("progress.json", json.dumps(progress_of(50 * step)).encode())
                if done.wait(PROGRESS_S / len(folders)):
                    return

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def leading(api: Served, *, really: bool) -> Iterator[int | None]:
    """The leader beside it, when it has looked at every live run once; its process id."""
    if not really:
        yield None
        return
    began = datetime.now(UTC)
    command = [sys.executable, "-m", "service.leader"]
    leader = subprocess.Popen(command, env=api.environment, stderr=subprocess.DEVNULL)
    try:
        headers = {"Authorization": f"Bearer {api.token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", headers=headers) as client:
            for number in range(LIVE):  # its start is not what is measured
                while not _seen_since(began, client.get(f"/v1/runs/live-{number}").json()["progress_at"]):
                    time.sleep(0.2)
        yield leader.pid
    finally:
        leader.terminate()
        leader.wait(30)


def _seen_since(began: datetime, progress_at: str | None) -> bool:
    return progress_at is not None and datetime.fromisoformat(progress_at) > began


def measured(api: Served, arguments: argparse.Namespace, what: str) -> Part:
    """One part of a round, with the API's CPU."""
    before = tree_cpu_s(api.pid)
    if what == "steady":
        part = asyncio.run(steady(api, rate=arguments.rate, seconds=arguments.seconds))
    else:
        part = asyncio.run(flat_out(api, seconds=arguments.seconds))
    part.cpu_s = tree_cpu_s(api.pid) - before
    p95 = 1e3 * percentile(part.took_s, 95)
    print(f"{what}: {part.per_s:.0f}/s, p95 {p95:.0f} ms, {part.failed} failed", file=sys.stderr, flush=True)
    return part


def table(found: dict[str, dict[str, list[Part]]]) -> str:
    """All ways as Markdown, with median and range of the rounds."""
    lines = [
        "| | requests/s | median, ms | p95, ms | p99, ms | API's CPU, ms a request | not 200 |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, by_leader in found.items():
        for leader, parts in by_leader.items():
            times = [[1e3 * each for each in part.took_s] for part in parts]
            cells = [
                spread([part.per_s for part in parts]),
                spread([statistics.median(each) for each in times]),
                *(spread([percentile(each, per_cent) for each in times]) for per_cent in (95, 99)),
                spread([1e3 * part.cpu_s / len(part.took_s) for part in parts]),
                str(sum(part.failed for part in parts)),
            ]
            lines.append(f"| {what}, {leader} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = parse()
    found: dict[str, dict[str, list[Part]]] = {
        what: {"with the leader": [], "without": []} for what in (f"steady {arguments.rate:g}/s", "flat out")
    }
    shares, loads = [], [os.getloadavg()[0]]
    with served(arguments.database) as api:
        first = asyncio.run(flat_out(api, seconds=2))  # what is imported late is imported now
        assert not first.failed, f"{first.failed} of {len(first.took_s)} requests were not answered with 200"
        for number in range(2 * arguments.rounds):
            leads = number % 4 in (0, 3)
            with leading(api, really=leads) as leader:
                before, start = tree_cpu_s(leader) if leader else 0.0, time.perf_counter()
                for what, by_leader in found.items():
                    part = measured(api, arguments, what.split()[0])
                    by_leader["with the leader" if leads else "without"].append(part)
                if leader:
                    shares.append((tree_cpu_s(leader) - before) / (time.perf_counter() - start))
    loads.append(os.getloadavg()[0])
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(
        f"{machine}, {arguments.database}; {ENDED:,} ended and {LIVE} live runs; {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s. Load of the machine before and after: {loads[0]:.1f}, {loads[1]:.1f}.\n"
    )
    print(f"{table(found)}\n")
    print(f"The leader takes {spread([100 * each for each in shares])} % of a core.")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_json(found, shares, machine, loads, arguments), indent=1) + "\n")


def as_json(
    found: dict[str, dict[str, list[Part]]],
    shares: list[float],
    machine: str,
    loads: list[float],
    arguments: argparse.Namespace,
) -> dict[str, object]:
    """Each round's figures."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine,
        "load_before_and_after": loads,
        "database": arguments.database,
        "seconds": arguments.seconds,
        "leader_cores": shares,
        "rounds": {
            what: {
                leader: [
                    {
                        "per_s": part.per_s,
                        "ms": {str(each): 1e3 * percentile(part.took_s, each) for each in (50, 95, 99)},
                        "cpu_ms": 1e3 * part.cpu_s / len(part.took_s),
                        "failed": part.failed,
                    }
                    for part in parts
                ]
                for leader, parts in by_leader.items()
            }
            for what, by_leader in found.items()
        },
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200, help="requests a second of the steady part")
    parser.add_argument("--seconds", type=float, default=20, help="of each part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", help="write the figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
