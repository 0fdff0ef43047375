"""The numerical settings of a process: set once, and noted with the attempt, since they decide the last bits."""

from __future__ import annotations

import platform

import torch


def set_numerics(device: torch.device, *, precision: str) -> dict[str, str | int]:
    """Set what PyTorch leaves to the process; returns what holds then, read back rather than repeated.

    TF32 keeps the exponent of float32 and 10 bits of its fraction, more than bfloat16 does, and is several times faster
    than float32 on the GPUs that have it. Nothing of this changes what a CPU computes.

    Args:
        device: Where this process computes.
        precision: The spec's `train.precision`.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # shapes are the same in every step
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}",
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or "none",
        "cudnn": str(torch.backends.cudnn.version() or "none"),  # type: ignore[no-untyped-call]
        "precision": precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "threads": torch.get_num_threads(),
    }
