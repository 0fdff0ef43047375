"""The Ray cluster of a job: the one at RAY_ADDRESS, or one on this machine for as long as the job takes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import ray

from jobs.errors import UserError
from jobs.spec import ScaleSpec

_LOCAL_OBJECT_STORE_BYTES = 200 * 1024**2  # nothing large passes through it: pictures and checkpoints do not


@contextlib.contextmanager
def connected(scale: ScaleSpec) -> Iterator[None]:
    """Connect, check that the cluster can hold the workers, and disconnect at the end.

    Raises:
        UserError: If no cluster answers, or it is too small.
    """
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths in a spec are relative to where the user stands
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        if address == "local":
            ray.init(
                address="local",
                include_dashboard=True,  # Ray Train frees its placement groups by asking the dashboard
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
            )
        else:
            ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}",
            hint="Start it, correct RAY_ADDRESS, or unset it to train on this machine.",
        ) from error
    try:
        _check_resources(scale, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


def _check_resources(scale: ScaleSpec, there: dict[str, float]) -> None:
    for kind, each, field in (
        ("CPU", scale.cpus_per_worker, "cpus_per_worker"),
        ("GPU", scale.gpus_per_worker, "gpus_per_worker"),
    ):
        needed, available = scale.workers * each, int(there.get(kind, 0))
        if needed > available:
            fits = available // scale.workers
            change = f"--set scale.{field}={fits}" if fits or kind == "GPU" else f"--set scale.workers={available}"
            raise UserError(
                f"the run needs {needed} {kind}s ({scale.workers} workers with {each} each), "
                f"the cluster has {available}.",
                hint=f"Ask for less ({change}), or add nodes.",
            )
