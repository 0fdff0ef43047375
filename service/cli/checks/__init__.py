"""The checks of `reco doctor`: each looks at one thing and says what it found and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from service.cli.checks import machine, plan, storage, systems
from service.cli.checks.finding import Finding

__all__ = ["Finding", "examine"]


def examine(url: str | None) -> Iterator[Finding]:
    """Yield the findings in a fixed order; the checks themselves run side by side, for several wait on others.

    Args:
        url: Storage to try out, or a spec (.yaml) to plan; None for neither.
    """
    checks: list[Callable[[], list[Finding]]] = [
        machine.versions,
        machine.cores,
        machine.memory,
        machine.shared_memory,
        machine.disk,
        machine.torch,
        systems.ray,
        systems.mlflow,
        _asked(url),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        for findings in pool.map(lambda check: check(), checks):
            yield from findings


def _asked(url: str | None) -> Callable[[], list[Finding]]:
    if url is None:
        return storage.endpoint
    if url.endswith((".yaml", ".yml")):
        return lambda: plan.of(url)
    return lambda: storage.rights(url)
