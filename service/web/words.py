"""Numbers, sizes, times and states as a person reads them on a page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeGuard

from markupsafe import Markup, escape

from jobs.tracking.comparison import ABSENT
from service.contract.messages import RunDetails, RunView
from service.runs.states import Condition, State

STATE_WORDS = {
    State.QUEUED: "waits for its turn",
    State.STARTING: "an attempt is being started",
    State.RUNNING: "its job runs",
    State.RECOVERING: "an attempt ended without a result; another follows",
    State.STOPPING: "it was asked to stop; it saves and ends",
    State.SUCCEEDED: "the results are there",
    State.FAILED: "it ended, and trying again would not mend it",
    State.CANCELLED: "somebody asked it to stop, and it has ended",
}
CONDITION_WORDS = {
    Condition.UNREACHABLE: "the backend does not answer: nobody knows how the job is",
    Condition.STALLED: "the job runs, but its steps stand still",
    Condition.STARVED: "the job waits for data more than it should",
}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LARGEST = 1e15


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether what a job said is a number that means something: an integer may be larger than any float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST  # so is no NaN


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def figure(value: object, digits: int = 4) -> str:
    """A measured number to so many digits; `ABSENT` where there is none."""
    if not is_number(value):
        return ABSENT
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return f"{value:.{max(digits - 2, 1)}e}".replace("e-0", "e-").replace("e+0", "e")


def percent(value: object) -> str:
    """Percent, to a tenth."""
    return f"{value:.1f} %" if is_number(value) else ABSENT


def short(value: float) -> str:
    """A number for the tick of an axis: 1200000 is 1.2M."""
    for unit, prefix in _PREFIXES:
        if abs(value) >= unit:
            return f"{value / unit:.4g}{prefix}"
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"


def size(value: float) -> str:
    """Bytes with a decimal prefix."""
    for unit, prefix in _PREFIXES:
        if value >= unit:
            return f"{value / unit:.3g} {prefix}B"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """A span of time by its two largest units."""
    whole = max(round(seconds), 0)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {rest:02d} s" if minutes < 10 else f"{minutes} min"
    return f"{rest} s"


def moment(at: datetime | str | None) -> Markup:
    """A moment as an element whose words a script turns into the reader's own zone, and relative ones."""
    if at is None:
        return Markup(f'<span class="faint">{ABSENT}</span>')
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            return escape(at)
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds"), f"{at:%Y-%m-%d %H:%M} UTC"
    )


def is_healthy(verdict: object) -> bool:
    """Whether a verdict on a run's health is a good one."""
    return verdict == "healthy"


def ticks(text: str) -> Markup:
    """A sentence whose `commands` are set as such."""
    parts = [escape(part) for part in text.split("`")]
    parts[1::2] = [Markup("<code>{}</code>").format(part) for part in parts[1::2]]
    return Markup("").join(parts)


def knn(run: RunView) -> float | None:
    """The k-NN accuracy of a run in percent: on the test set once it was measured, else the latest on the way."""
    outcome = run.outcome if isinstance(run, RunDetails) else None
    results, progress = (outcome or {}).get("results"), run.progress or {}
    probes = progress.get("probes")
    last = probes[-1] if isinstance(probes, list) and probes else None
    probed = last.get("metrics") if isinstance(last, dict) else None
    for metrics in (results, progress.get("metrics"), probed):
        for name in ("test/knn", "valid/knn"):
            if isinstance(metrics, dict) and is_number(value := metrics.get(name)):
                return float(value)
    return None
