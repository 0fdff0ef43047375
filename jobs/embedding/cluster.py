"""Where workers run: the cluster at RAY_ADDRESS, or one on this machine for as long as the work takes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from jobs.cluster import check_address
from jobs.embedding.place import at_a_cluster
from jobs.errors import UserError

_LOCAL_OBJECT_STORE_BYTES = 1 << 30  # weights, and the vectors of parts on their way; memory is taken as it is used


@dataclass(frozen=True)
class Share:
    """What each worker has.

    Attributes:
        workers: How many there are.
        cpus: Cores of each.
        gpus: GPUs of each, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Connect to the cluster, and disconnect at the end. What Ray has to say of itself stays in its own logs.

    Raises:
        UserError: If no cluster answers.
    """
    address = os.environ.get("RAY_ADDRESS", "local")
    given = {} if at_a_cluster() else {"include_dashboard": False, "object_store_memory": _LOCAL_OBJECT_STORE_BYTES}
    try:
        if at_a_cluster():
            check_address(address)
        # Ray Data gives its workers arguments through the object store, of which Ray's core complains each time.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with _silenced():  # the level is announced
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **given)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}",
            hint="Start it, correct RAY_ADDRESS, or unset it to work on this machine.",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is written to stderr, by Ray's core too, which knows nothing of Python's."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def share_out(workers: int | None, cpus: int | None) -> Share:
    """Divide the cluster among workers.

    Args:
        workers: How many; by default one for each GPU, or for each host where there are none.
        cpus: Cores of each; by default as many as fit.

    Raises:
        UserError: It does not hold them.
    """
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    gpus = sum(int(host.get("GPU", 0)) for host in hosts)
    each = 1 if gpus else 0
    workers = workers or gpus or len(hosts)
    if each and workers > gpus:
        raise UserError(f"{workers} workers need a GPU each, the cluster has {gpus}.", hint=f"Use --workers {gpus}.")
    most = max((int(host["CPU"]) for host in hosts), default=0)
    for number in (cpus,) if cpus else range(most, 0, -1):
        room = [int(host["CPU"]) // number for host in hosts]
        if each:
            room = [min(fit, int(host.get("GPU", 0))) for fit, host in zip(room, hosts, strict=True)]
        if sum(room) >= workers:
            return Share(workers, number, each)
    total = sum(int(host["CPU"]) for host in hosts)
    wanted = f"{workers} workers with {cpus or 1} cores each"
    raise UserError(f"{wanted} do not fit the cluster's {total} cores.", hint="Ask for fewer, or add hosts.")
