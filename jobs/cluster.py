"""The Ray cluster of a job: the one at RAY_ADDRESS, or one on this machine for as long as the job takes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from jobs.errors import UserError
from jobs.job_folder import SUBMISSION_VARIABLE
from jobs.spec import RunSpec, ScaleSpec

_ANSWER_S = 2.0
_LOCAL_OBJECT_STORE_BYTES = 200 * 1024**2  # nothing large passes through it: pictures and checkpoints do not


@contextlib.contextmanager
def connected(spec: RunSpec) -> Iterator[None]:
    """Connect, check that the cluster can hold the workers, and disconnect at the end.

    Raises:
        UserError: If no cluster answers, or it is too small.
    """
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths in a spec are relative to where the user stands
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "60")
    address = os.environ.get("RAY_ADDRESS", "local")
    handed_on = _handed_on()
    try:
        if address == "local":
            ray.init(
                address="local",
                include_dashboard=True,  # Ray Train frees its placement groups by asking the dashboard
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
                runtime_env=handed_on,
            )
        else:
            check_address(address)
            ray.init(address=address, logging_level=logging.WARNING, runtime_env=handed_on)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}",
            hint="Start it, correct RAY_ADDRESS, or unset it to train on this machine.",
        ) from error
    try:
        _check_resources(spec, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


def _handed_on() -> dict[str, dict[str, str]] | None:
    """What workers on all hosts find in their environment: the attempt that their failures are signed with."""
    submission = os.environ.get(SUBMISSION_VARIABLE)
    if submission is None:
        return None
    # A Ray job has its variables handed on by Ray, which takes the same one given twice for a conflict.
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    return {"env_vars": {SUBMISSION_VARIABLE: submission}}


@dataclass(frozen=True)
class Hosts:
    """The cluster's hosts that stay, for a run's workers.

    Attributes:
        room: Workers they can hold, were they otherwise idle.
        free: Workers they can hold besides what is on them now.
    """

    room: int
    free: int


def hosts_at_hand(scale: ScaleSpec, *, reachable: bool = False) -> Hosts:
    """Look at the cluster.

    Args:
        scale: What one worker needs.
        reachable: Leave out hosts that do not answer: Ray takes a while to notice that one is gone.
    """
    leaving = _leaving()
    idle = ray._private.state.available_resources_per_node()
    room = free = 0
    for node in ray.nodes():
        holds = _holds(scale, node["Resources"])
        if not node["Alive"] or not holds or node["NodeID"] in leaving:
            continue
        if reachable and not _answers(node["NodeManagerAddress"], node["NodeManagerPort"]):
            continue
        room += holds
        free += _holds(scale, idle.get(node["NodeID"], {}))
    return Hosts(room, free)


def workers_must_leave() -> bool:
    """Whether a host with workers of this job on it is about to be taken away."""
    leaving = _leaving()
    if not leaving:
        return False
    job = ray.get_runtime_context().get_job_id()
    actors = ray._private.state.actors(job_id=ray.JobID.from_hex(job), actor_state_name="ALIVE")
    return any(
        actor["Address"]["NodeID"] in leaving and "TrainWorker" in actor["ActorClassName"] for actor in actors.values()
    )


def _leaving() -> set[str]:
    # Ray has no public way to ask which nodes are being drained; its own Train asks like this.
    return set(ray._private.state.state.get_draining_nodes())


def _holds(scale: ScaleSpec, resources: dict[str, float]) -> int:
    holds = int(resources.get("CPU", 0) // scale.cpus_per_worker)
    if scale.gpus_per_worker:
        holds = min(holds, int(resources.get("GPU", 0) // scale.gpus_per_worker))
    return holds


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=_ANSWER_S):
            return True
    except OSError:
        return False


def check_address(address: str) -> None:
    """Ask at once what Ray would try for a quarter of an hour.

    Raises:
        ConnectionError: Nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # `auto` and its like: where to look is for Ray to find out
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            return
    except OSError as error:
        raise ConnectionError(f"nothing listens there ({error.strerror or error})") from error


def _check_resources(spec: RunSpec, there: dict[str, float]) -> None:
    scale, workers = spec.scale, spec.fewest_workers
    for kind, each, field in (
        ("CPU", scale.cpus_per_worker, "cpus_per_worker"),
        ("GPU", scale.gpus_per_worker, "gpus_per_worker"),
    ):
        needed, available = workers * each, int(there.get(kind, 0))
        if needed > available:
            fits = available // workers
            change = f"--set scale.{field}={fits}" if fits or kind == "GPU" else f"--set scale.workers={available}"
            raise UserError(
                f"the run needs {needed} {kind}s ({workers} workers with {each} each), the cluster has {available}.",
                hint=f"Ask for less ({change}), or add nodes.",
            )
