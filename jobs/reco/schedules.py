"""Schedules as functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math


def learning_rate(step: int, *, base: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from base / warmup_steps to base, then a cosine to 0 over the remaining steps.

    Args:
        step: Step from 0 to total_steps - 1.
        base: The learning rate at the end of the warm-up.
        warmup_steps: Length of the warm-up; 0 for none.
        total_steps: Length of the run.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return base * 0.5 * (1.0 + math.cos(math.pi * progress))
