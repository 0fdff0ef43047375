"""Pictures that could not be used: kept with the run, counted, and too many of them are an error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from jobs.errors import RecoError
from jobs.loading.batch import Replaced
from jobs.run_folder import RunFolder


class BadPicturesError(RecoError):
    """More pictures cannot be used than the spec allows."""


class Quarantine:
    """The bad pictures that one rank met.

    Args:
        folder: Of the run.
        rank: This rank.
        samples: Pictures of the data set.
        allowed: Largest part of them that may be bad.
    """

    def __init__(self, folder: RunFolder, *, rank: int, samples: int, allowed: float) -> None:
        self._folder = folder
        self._rank = rank
        self._allowed = math.ceil(allowed * samples)
        self._share = allowed
        self._epoch = -1
        self._met: list[Replaced] = []
        self._written = 0

    def add(self, replaced: Iterable[Replaced]) -> None:
        """Note what a batch had to replace."""
        for each in replaced:
            if each.epoch != self._epoch:
                self.write()
                self._epoch, self._met, self._written = each.epoch, [], 0
            self._met.append(each)

    def met(self, epoch: int) -> int:
        """How many this rank met in an epoch; every picture comes at most once in one, so none counts twice."""
        return len(self._met) if epoch == self._epoch else 0

    def write(self) -> None:
        """Keep what is not yet kept in the run's folder."""
        if len(self._met) > self._written:
            self._folder.write_quarantine(
                [dataclasses.asdict(each) for each in self._met], epoch=self._epoch, rank=self._rank
            )
            self._written = len(self._met)

    def check(self, bad: int, epoch: int) -> None:
        """Refuse to go on with too many.

        Args:
            bad: Met by all ranks in this epoch.
            epoch: The epoch.

        Raises:
            BadPicturesError: There are more than allowed.
        """
        if bad <= self._allowed:
            return
        self.write()
        first = (
            f" The first that rank {self._rank} met: {self._met[0].key}: {self._met[0].reason}." if self._met else ""
        )
        raise BadPicturesError(
            f"{bad} pictures of epoch {epoch} cannot be used, more than data.bad_pictures {self._share:g} allows "
            f"({self._allowed}).{first}",
            hint=f"They are listed in {self._folder.url}/quarantine; `reco data verify` finds all there are. "
            "Allow more and continue with the same --run-id, or mend the shards and start anew.",
        )
