"""What a check of `reco doctor` tells."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = {"✓": "ok", "!": "warning", "✗": "failed"}


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        mark: ✓ in order, ! works but look at it, ✗ a run would fail.
        subject: What was looked at.
        found: What was found, in one line.
        advice: What to do, where there is something to do.
    """

    mark: str
    subject: str
    found: str
    advice: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return the finding as plain data, for JSON."""
        return {"state": MARKS[self.mark], "subject": self.subject, "found": self.found, "advice": self.advice}
