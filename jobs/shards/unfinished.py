"""What is known of packing under way: kept at its destination until the end, so that it can go on."""

from __future__ import annotations

import json
from typing import Literal

import pydantic

from jobs.errors import UserError
from jobs.shards.index import ShardEntry, file_of
from jobs.shards.indexing import PACKING
from jobs.shards.journal import Journal
from jobs.shards.prepare import Unreadable
from jobs.storage import Storage, join_url, open_storage


class OtherPlanError(UserError):
    """What is unfinished at a destination is of another plan than what is to be packed."""


class Plan(pydantic.BaseModel):
    """All that decides what the shards will hold; the same plan gives the same shards, byte for byte."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    source: str
    pictures: int
    fingerprint: str
    shard_bytes: int
    shard_samples: int | None
    split: dict[str, float] | None
    seed: int
    optimise: bool
    max_side: int | None

    def differences(self, other: Plan) -> list[str]:
        """Names of what differs, as a user calls it."""
        ours, theirs = self.model_dump(), other.model_dump()
        names = {"fingerprint": "pictures", "shard_bytes": "shard-size", "shard_samples": "shard-samples"}
        names |= {"optimise": "lossless-optimise", "max_side": "max-side"}
        return sorted({names.get(name, name) for name in ours if ours[name] != theirs[name]})


def refuse_other_plan(found: Plan, plan: Plan, where: str) -> None:
    """Refuse to go on with what another plan began.

    Raises:
        OtherPlanError: The plans differ.
    """
    if found != plan:
        raise OtherPlanError(
            f"{where} holds an unfinished packing with another {', '.join(found.differences(plan))}.",
            hint="Give the same command as before to finish it, or begin anew with --overwrite.",
        )


class Done(pydantic.BaseModel):
    """One shard that lies at the destination, whole, with its file of the index."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    start: int
    stop: int
    entry: ShardEntry
    left_out: tuple[tuple[int, str, str], ...]
    optimised: int
    resized: int


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    plan: Plan
    done: tuple[Done, ...]


class Unfinished:
    """The shards of one part that are done, in order, and the plan they belong to.

    Args:
        part: Where the shards lie.
        plan: What is being packed.
    """

    def __init__(self, part: Storage, plan: Plan) -> None:
        self.place = open_storage(join_url(part.url, "index"))
        self.done: list[Done] = []
        self._part = part
        self._plan = plan
        self._journal = Journal(self.place, PACKING, self._render)

    def load(self) -> bool:
        """Take up what another process left here; False where there is nothing.

        Raises:
            OtherPlanError: It packed something else.
            StorageError: It cannot be read.
        """
        if not self.place.exists(PACKING):
            return False
        try:
            file = _File.model_validate_json(self.place.read(PACKING))
        except ValueError as error:
            raise OtherPlanError(
                f"The unfinished packing in {self._part.url} is of another version, or damaged.",
                hint="Begin anew with --overwrite.",
            ) from error
        refuse_other_plan(file.plan, self._plan, self._part.url)
        listed = {item.key: (item.size, item.etag) for item in self._part.list(recursive=False)}
        files = {item.key: item.size for item in self.place.list(recursive=False)}
        for done in file.done:
            entry = done.entry
            if (
                done.start != self.stop
                or listed.get(entry.name) != (entry.size, entry.etag)
                or files.get(file_of(entry.name)) != entry.bytes
            ):
                break  # from here on it has to be done again: where a shard ends decides where the next begins
            self.done.append(done)
        return True

    @property
    def stop(self) -> int:
        """The place in the part's sequence of pictures up to which it is done."""
        return self.done[-1].stop if self.done else 0

    @property
    def left_out(self) -> list[Unreadable]:
        """Pictures that could not be read, so far."""
        return [Unreadable(*row) for done in self.done for row in done.left_out]

    def add(self, done: Done) -> None:
        """Note one more shard, which begins where the last one stops."""
        assert done.start == self.stop, (done.start, self.stop)
        self.done.append(done)
        self._journal.note()

    def keep(self) -> None:
        """Write down what is done."""
        self._journal.keep()

    def remove(self) -> None:
        """The part is whole."""
        self._journal.remove()

    def _render(self) -> bytes:
        done = [item.model_dump() for item in self.done]
        return json.dumps({"version": 1, "plan": self._plan.model_dump(), "done": done}).encode()
