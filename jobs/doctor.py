"""What `reco doctor` must ask of torch and Ray, in a process of its own: `python -m jobs.doctor torch | ray ADDRESS`.

Prints one line of JSON as its last line: what was found, or `{"error": …}`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from pathlib import Path


def torch_report() -> dict[str, object]:
    """Return torch's version, its CUDA devices, its threads, and whether the hardware computes in bf16."""
    import torch

    devices = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
            "bf16": torch.cuda.get_device_capability(index) >= (8, 0),
        }
        for index in range(torch.cuda.device_count())
    ]
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_bf16": bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags()),
    }


def ray_report(address: str) -> dict[str, object]:
    """Connect to the Ray cluster at `address` as a run would, and return what it offers."""
    # Ray tries 20 s by default; whoever asks has had an answer at that port a moment ago.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    import ray

    ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False, configure_logging=False)
    try:
        resources = ray.cluster_resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return {
            "version": ray.__version__,
            "nodes": len(nodes),
            "cpus": resources.get("CPU", 0.0),
            "gpus": resources.get("GPU", 0.0),
        }
    finally:
        ray.shutdown()


def main(arguments: list[str]) -> int:
    """Print the report that is asked for; return 0, or 1 where there is only an error to tell."""
    kind, *rest = arguments
    try:
        report = torch_report() if kind == "torch" else ray_report(*rest)
    except Exception as error:  # noqa: BLE001  (whatever a broken installation raises is the finding)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        report = {"error": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"}
    sys.stdout.write("\n" + json.dumps(report) + "\n")
    return 1 if "error" in report else 0


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not path.exists():
        return set()
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {flag for name, _, flags in lines if name.strip() in ("flags", "Features") for flag in flags.split()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
