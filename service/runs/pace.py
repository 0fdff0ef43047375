"""How attempts move, by what they say of themselves from one look to the next."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from jobs.run_folder import Progress


@dataclass(frozen=True)
class Pace:
    """How an attempt moves.

    Attributes:
        still_s: Seconds that it has been at the same step of the same phase.
        data_wait: Share of its time that it waits for data; None where it has not said so itself yet.
    """

    still_s: float = 0.0
    data_wait: float | None = None


class Watch:
    """Remembers when each attempt last moved: progress carries no time, and the clocks of hosts differ."""

    def __init__(self) -> None:
        self._seen: dict[str, _Sight] = {}

    def look(
        self, submission: str, progress: Progress | None, now: datetime, *, still_before: datetime | None = None
    ) -> Pace:
        """How an attempt moves, by what it says now and said before.

        Args:
            submission: The attempt.
            progress: What it says.
            now: The time.
            still_before: It has stood still since then, as a leader before this one knew.
        """
        said = progress or Progress()
        place = (said.get("step", 0), said.get("phase", ""))
        sight = self._seen.get(submission)
        if sight is None:
            sight = _Sight(place, still_before or now, said, fresh=False)
        else:
            # What lies there at first may be of the attempt before: the job deletes that when it begins.
            fresh = sight.fresh or said != sight.said
            sight = _Sight(place, sight.since if sight.place == place else now, said, fresh)
        self._seen[submission] = sight
        return Pace((now - sight.since).total_seconds(), said.get("data_wait") if sight.fresh else None)

    def keep(self, submissions: Collection[str]) -> None:
        """Forget all others."""
        self._seen = {submission: sight for submission, sight in self._seen.items() if submission in submissions}


@dataclass(frozen=True)
class _Sight:
    place: tuple[int, str]
    since: datetime
    said: Progress
    fresh: bool
