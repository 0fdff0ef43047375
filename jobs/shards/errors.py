"""What can be wrong with shards, their index and their samples."""

from __future__ import annotations

from jobs.errors import RecoError, UserError


class SourceError(UserError):
    """A source of shards that holds none, or that says nothing clear."""


class ShardError(UserError):
    """A shard cannot be used as it is: cut, compressed, or with samples that contradict each other."""


class IndexMismatchError(UserError):
    """The index does not describe the shards that are there."""


class DamagedSampleError(RecoError):
    """A sample's bytes are not those that were indexed, or cannot be decoded.

    Args:
        where: The sample, with its shard.
        reason: What is wrong with it.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}.", hint="Copy the shard again, or mend the picture, pack and index again.")
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type[DamagedSampleError], tuple[str, str]]:
        return type(self), (self.where, self.reason)
