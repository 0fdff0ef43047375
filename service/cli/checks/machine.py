"""Checks of this machine: versions, cores, memory, disk, torch and its GPUs."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import psutil

from service.cli.checks.finding import Finding
from service.cli.checks.reach import ask
from service.cli.home import home

GIB = 2**30


def versions() -> list[Finding]:
    """Python and the packages everything rests on, without importing them."""
    found, missing = [f"python {platform.python_version()}"], []
    for name, package in (("reco", "reco-training"), ("torch", "torch"), ("ray", "ray"), ("mlflow", "mlflow")):
        try:
            found.append(f"{name} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        text = f"{', '.join(found)}; not installed: {', '.join(missing)}"
        return [Finding("✗", "versions", text, "Install the project's requirements: pip install -r requirements.txt.")]
    return [Finding("✓", "versions", ", ".join(found))]


def cores() -> list[Finding]:
    """CPU cores this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    allowed = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0] != "max" else float(cores)
    text = f"{cores} CPU core{'s' if cores > 1 else ''}"
    if allowed < cores:
        advice = f"Plan for {allowed:.3g} cores: scale.workers × scale.cpus_per_worker."
        return [Finding("!", "cores", f"{text}, of which this container may use {allowed:.3g}", advice)]
    return [Finding("✓", "cores", text)]


def memory() -> list[Finding]:
    """Free memory, a container's limit included."""
    machine = psutil.virtual_memory()
    limit = _cgroup("memory.max")
    total = min(machine.total, int(limit)) if limit.isdigit() else machine.total
    used = _cgroup("memory.current")
    free = min(machine.available, total - int(used)) if limit.isdigit() and used.isdigit() else machine.available
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 4 * GIB:
        advice = "Ray, MLflow and one worker want about 4 GiB: close something, or expect less speed."
        return [Finding("!", "memory", text, advice)]
    return [Finding("✓", "memory", text)]


def shared_memory() -> list[Finding]:
    """Size of /dev/shm, where batches and Ray's objects lie."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Finding("!", "/dev/shm", "there is none", "Ray keeps its objects on disk instead, which is slower.")]
    size = shutil.disk_usage(folder).total
    if size < GIB:
        advice = "Batches and Ray's objects lie here: give the container 2 GiB (--shm-size=2g)."
        return [Finding("!", "/dev/shm", f"{size / GIB:.2f} GiB", advice)]
    return [Finding("✓", "/dev/shm", f"{size / GIB:.1f} GiB")]


def disk() -> list[Finding]:
    """Whether the folder of local state can be written to, and the space there."""
    folder = home()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:  # really, for to root every folder looks writable
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        advice = "Set RECO_HOME to a folder that can be written to."
        return [Finding("✗", "disk", f"{folder} cannot be written to: {error.strerror}", advice)]
    free = shutil.disk_usage(existing).free
    text = f"{free / GIB:.1f} GiB free at {folder}"
    if free < 5 * GIB:
        return [Finding("!", "disk", text, "Checkpoints and MLflow's files lie here: free some, or set RECO_HOME.")]
    return [Finding("✓", "disk", text)]


def torch() -> list[Finding]:
    """Torch and the GPUs it sees, in a process of its own."""
    report = ask("torch")
    if "error" in report:
        return [Finding("✗", "torch", str(report["error"]), "Reinstall it: pip install -r requirements.txt.")]
    bf16 = "bf16 in hardware" if report["cpu_bf16"] else "bf16 emulated"
    found = [
        Finding("✓", "torch", f"{report['version']}, {report['threads']} threads, CPU with {report['cpu']}, {bf16}")
    ]
    for device in report["devices"]:
        text = f"{device['name']}, {device['memory_bytes'] / GIB:.0f} GiB{', bf16' if device['bf16'] else ''}"
        advice = None if device["bf16"] else "It has no bf16: set train.precision to fp32."
        found.append(Finding("✓" if device["bf16"] else "!", "GPU", text, advice))
    if not report["devices"]:
        if Path("/proc/driver/nvidia/version").exists() and report["cuda"] is None:
            text = "there is an NVIDIA driver, but this torch was built for the CPU"
            return [*found, Finding("!", "GPU", text, "Install torch with CUDA to use the GPU.")]
        found.append(Finding("!", "GPU", "none", "To train here, set scale.gpus_per_worker to 0."))
    return found


def _cgroup(name: str) -> str:
    """Return the text of one of this container's limits (cgroup v2), empty where there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""
