"""What Prometheus is told: requests as they are answered, and runs and the leader as the store has them when asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.control.control import Control
from service.runs.leadership import LEASE
from service.runs.leases import Leases
from service.runs.states import Condition
from service.runs.wanted import Wanted

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Requests:
    """Counts requests.

    Args:
        registry: Where the figures are kept.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "reco_requests", "Requests that were answered.", ("route", "method", "status"), registry=registry
        )
        self._seconds = Histogram(
            "reco_request_seconds", "Time to the end of an answer.", ("route",), registry=registry, buckets=_SECONDS
        )

    def note(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one. The route is its pattern: an id in it would make a new series of each run."""
        self._answers.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class StoreCollector(Collector):
    """Runs by state and condition, and how long the leader's lease still lasts.

    Args:
        control: The service.
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def describe(self) -> list[Metric]:
        """Nothing in advance: registering is not to ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask the store."""
        runs = GaugeMetricFamily("reco_runs", "Runs in each state.", labels=("state",))
        for state, count in self._control.listed.counts().items():
            runs.add_metric((state.value,), count)
        yield runs
        held = GaugeMetricFamily("reco_runs_condition", "Runs that a condition holds for.", labels=("condition",))
        for condition in Condition:
            held.add_metric((condition.value,), sum(self._control.listed.counts(Wanted(condition=condition)).values()))
        yield held
        lease = Leases(self._control.database).current(LEASE)
        if lease is not None:
            left = (lease.until - self._control.database.clock()).total_seconds()
            yield GaugeMetricFamily(
                "reco_leader_lease_seconds", "Until the leader's lease ends; below 0, nobody leads.", value=left
            )
            yield GaugeMetricFamily(
                "reco_leader_changes", "How often the lease has changed hands.", value=float(lease.fence)
            )


def exposition(registry: CollectorRegistry) -> bytes:
    """All figures, as Prometheus reads them."""
    return generate_latest(registry)
