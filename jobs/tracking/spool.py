"""Metrics on their way to MLflow, as JSON lines on disk: what was not sent yet outlives the process and the outage."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jobs.tracking.errors import TrackingError

logger = logging.getLogger("jobs.tracking")


@dataclass(frozen=True)
class Record:
    """All metrics of one step.

    Attributes:
        run: Run id of this project; a record never goes to another run.
        step: Global step.
        pictures: Pictures seen up to and including this step.
        time_ms: When it was measured, in milliseconds since 1970. It is part of what MLflow tells two points apart by,
            so that a record sent twice is stored once.
        metrics: Finite values by name.
        non_finite: Names of the metrics that were NaN or infinite.
    """

    run: str
    step: int
    pictures: int
    time_ms: int
    metrics: dict[str, float]
    non_finite: list[str] = field(default_factory=list)


class Spool:
    """One append-only file of records in step order, flushed line by line: `kill -9` loses nothing that was appended.

    Args:
        path: The file; its folder is created.
        run: Run id of this project, for the records of this file.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        self._file: int | None = None
        self._broken = False

    def recover(self, *, after: int) -> list[Record]:
        """Return the records of steps above `after`, in step order, and drop everything else from the file.

        A last line that was cut off by a crash is dropped. So is a line in the middle that cannot be read, and a record
        of another run, each with a warning.

        Raises:
            TrackingError: The file cannot be read or written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
            kept = self._unsent(lines, after)
            temporary = self.path.with_name(f"{self.path.name}.tmp")
            temporary.write_bytes(b"".join(_line(record) for record in kept))
            temporary.replace(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except OSError as cause:
            raise TrackingError(
                f"cannot keep metrics in {self.path}: {cause.strerror or cause}", hint="Is its folder writable?"
            ) from cause
        return kept

    def _unsent(self, lines: list[bytes], after: int) -> list[Record]:
        kept: list[Record] = []
        newest = after
        for number, line in enumerate(lines, start=1):
            record = _parsed(line)
            if record is None:
                if line and number < len(lines):
                    logger.warning("%s, line %d is damaged; this point is missing from the curves", self.path, number)
            elif record.run != self.run:
                logger.warning("%s, line %d belongs to run %s; it is left out", self.path, number, record.run)
            elif record.step > newest:
                kept.append(record)
                newest = record.step
        return kept

    def append(self, record: Record) -> None:
        """Append one record; a disk that refuses it is said once, and the record then lives in memory only."""
        if self._file is None:
            raise ValueError("recover() opens the spool and comes first")
        line = _line(record)
        try:
            # One write call: no buffer whose rest a crash would lose, and no half line but for a full disk.
            written = os.write(self._file, b"\n" + line if self._broken else line)
        except OSError as error:
            self._complain(error.strerror or str(error))
        else:
            if written < len(line):
                self._complain("no space left")
            else:
                self._broken = False

    def close(self) -> None:
        """Close the file; what it holds stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _complain(self, reason: str) -> None:
        if not self._broken:
            logger.warning(
                "%s cannot be written (%s): unsent metrics would be lost with this process", self.path, reason
            )
        self._broken = True


def _line(record: Record) -> bytes:
    return json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Record | None:
    try:
        return Record(**json.loads(line))
    except (ValueError, TypeError):
        return None
