"""Where workers run: the cluster at RAY_ADDRESS, or one on this machine for as long as the work takes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from jobs.cluster import check_address
from jobs.embedding.place import at_a_cluster
from jobs.errors import UserError

WAITING_S = 10.0
"""How long workers may take to get a place, in seconds, before that is told."""

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
    """Divide among workers what is free on the cluster; what was asked for and is in use will be waited for.

    Args:
        workers: How many; by default one for each free GPU, or for each host with a free core where there are no GPUs.
        cpus: Cores of each; by default as many as fit.

    Raises:
        UserError: The cluster does not hold them, or nothing of it is free and neither is given.
    """
    whole, free = _hosts()
    each = 1 if any(host.gpus for host in whole) else 0
    share = _fitting(free, workers, cpus, each)
    if share is not None:
        return share
    total, kind = sum(host.gpus if each else host.cpus for host in whole), "GPU" if each else "core"
    if workers is None and cpus is None and whole:
        raise UserError(
            f"none of the cluster's {total} {kind}s is free{' with a core beside it' if each else ''}.",
            hint="Try again when other work has ended, or name --workers and --cpus: they are waited for.",
        )
    # Of no more cores than necessary, since they are in use.
    share = _fitting(whole, workers, cpus or 1, each)
    if share is not None:
        return share
    workers = workers or 1
    if each and workers > total:
        raise UserError(f"{workers} workers need a GPU each, the cluster has {total}.", hint=f"Use --workers {total}.")
    cores = sum(host.cpus for host in whole)
    wanted = f"{workers} workers with {cpus or 1} cores each"
    raise UserError(f"{wanted} do not fit the cluster's {cores} cores.", hint="Ask for fewer, or add hosts.")


@contextlib.contextmanager
def waiting_said(share: Share, actors: str, *, anyones: bool = False, after_s: float = WAITING_S) -> Iterator[None]:
    """Say on stderr what is waited for, once, where none of the actors that were asked for has got a place.

    Args:
        share: What was asked for.
        actors: Part of the name of the actors' class.
        anyones: Look at those of other jobs too.
        after_s: How long they may take, in seconds.
    """
    ended = threading.Event()
    job = None if anyones else ray.JobID.from_hex(ray.get_runtime_context().get_job_id())

    def watch() -> None:
        while not ended.wait(after_s):
            # A process is only there once the cores are.
            placed = [actor["Pid"] > 0 for actor in _actors(job) if actors in actor["ActorClassName"]]
            if not placed:
                continue
            if not any(placed):
                print(_waited_for(share), file=sys.stderr, flush=True)  # noqa: T201
            return

    watching = threading.Thread(target=watch, name="waiting", daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


class _Host(NamedTuple):
    """What a host has, or what of it is free."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> _Host:
        return cls(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def _hosts() -> tuple[list[_Host], list[_Host]]:
    """What the hosts that stay have, and what of it is free, in the same order."""
    # Ray has no public way to ask for either; its own libraries ask like this.
    leaving = set(ray._private.state.state.get_draining_nodes())
    idle = ray._private.state.available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    nodes = [node for node in nodes if node["Resources"].get("CPU", 0) >= 1]
    # A host that has only just come is not spoken of yet: all of it is free.
    return (
        [_Host.of(node["Resources"]) for node in nodes],
        [_Host.of(idle.get(node["NodeID"], node["Resources"])) for node in nodes],
    )


def _fitting(hosts: Sequence[_Host], workers: int | None, cpus: int | None, gpus: int) -> Share | None:
    """The share with the most cores for each worker that fits; None where none does."""
    useful = [host for host in hosts if host.cpus >= (cpus or 1) and host.gpus >= gpus]
    count = workers or (sum(min(host.gpus, host.cpus // (cpus or 1)) for host in useful) if gpus else len(useful))
    most = max((host.cpus for host in useful), default=0)
    for number in ((cpus,) if cpus else range(most, 0, -1)) if count else ():
        room = [min(host.cpus // number, host.gpus) if gpus else host.cpus // number for host in useful]
        if sum(room) >= count:
            return Share(count, number, gpus)
    return None


def _actors(job: ray.JobID | None) -> list[dict[str, Any]]:
    actors = ray._private.state.actors(job_id=job)
    return [actor for actor in actors.values() if actor["State"] != "DEAD"]


def _waited_for(share: Share) -> str:
    whole, free = _hosts()
    each = f"{share.cpus} core{'s' if share.cpus > 1 else ''}{' and a GPU' if share.gpus else ''}"
    there = f"{sum(host.cpus for host in free)} of {sum(host.cpus for host in whole)} cores"
    if share.gpus:
        there += f" and {sum(host.gpus for host in free)} of {sum(host.gpus for host in whole)} GPUs"
    of = f"the first of {share.workers} workers" if share.workers > 1 else "a worker"
    return f"waiting for {of} with {each}{' each' if share.workers > 1 else ''}: {there} of the cluster are free"
