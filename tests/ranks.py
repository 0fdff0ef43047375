"""Runs a function on several gloo ranks, each in a process of its own, and brings back what each returned."""

from __future__ import annotations

import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: object) -> list[Any]:
    """Call `function(rank, world_size, *args)` on every rank; `function` lives at the top of an importable module."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("spawn")
        port = free_port()
        processes = [
            context.Process(target=_rank, args=(function, rank, world_size, port, folder, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        failures = sorted(Path(folder).glob("*.error"))
        assert not failures, "\n".join(f"{path.stem}: {path.read_text()}" for path in failures)
        assert all(process.exitcode == 0 for process in processes), [process.exitcode for process in processes]
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, folder: str, args: tuple[object, ...]
) -> None:
    try:
        torch.set_num_threads(1)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
        torch.save(function(rank, world_size, *args), Path(folder) / f"{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        raise
