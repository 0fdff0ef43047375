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
    """A sample's bytes are not those that were indexed, or cannot be decoded."""
