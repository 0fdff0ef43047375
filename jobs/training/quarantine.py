"""Pictures that could not be used: kept with the run, counted, and too many of them are an error."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
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
        self._met: dict[int, list[Replaced]] = defaultdict(list)
        self._written: dict[int, int] = defaultdict(int)
        self._before: dict[int, int] = {}

    def take_up(self, epoch: int, step: int) -> None:
        """Count what earlier attempts met in an epoch before the step from which the run goes on; for one rank."""
        found = {each["sample_id"] for each in self._folder.quarantine_of(epoch) if each["step"] < step}
        self._before[epoch] = len(found)

    def add(self, replaced: Iterable[Replaced]) -> None:
        """Note what a batch had to replace."""
        for each in replaced:
            self._met[each.epoch].append(each)

    def met(self, epoch: int) -> int:
        """How many this rank met in an epoch; every picture comes at most once in one, so none counts twice."""
        return len(self._met[epoch]) + self._before.get(epoch, 0)

    def write(self) -> None:
        """Keep what is not yet kept in the run's folder."""
        for epoch, met in self._met.items():
            if len(met) > self._written[epoch]:
                self._folder.write_quarantine([dataclasses.asdict(each) for each in met], epoch=epoch, rank=self._rank)
                self._written[epoch] = len(met)

    def let_go(self, before: int) -> None:
        """Epochs before this one are over and were checked."""
        self.write()
        for epoch in [epoch for epoch in self._met if epoch < before]:
            del self._met[epoch], self._written[epoch]

    def check(self, bad: int, epoch: int) -> None:
        """Refuse to go on with too many.

        Args:
            bad: Met by all ranks in the epoch.
            epoch: The epoch.

        Raises:
            BadPicturesError: There are more than allowed.
        """
        if bad <= self._allowed:
            return
        self.write()
        met = self._met[epoch]
        first = f" The first that rank {self._rank} met: {met[0].key}: {met[0].reason}." if met else ""
        raise BadPicturesError(
            f"{bad} pictures of epoch {epoch} cannot be used, more than data.bad_pictures {self._share:g} allows "
            f"({self._allowed}).{first}",
            hint=f"They are listed in {self._folder.url}/quarantine; `reco data verify` finds all there are. "
            "Allow more and continue with the same --run-id, or mend the shards and start anew.",
        )
