"""Packs pictures into shards with an index, shard by shard, and goes on where it was stopped."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from jobs.errors import UserError
from jobs.shards.destination import Destination, open_destination
from jobs.shards.index import describe
from jobs.shards.pictures import PictureSource, open_pictures
from jobs.shards.prepare import Changes, Prepared, Unreadable, check_changes, prepare
from jobs.shards.records import MOST_LABEL
from jobs.shards.split import divide
from jobs.shards.tar import scan_shard
from jobs.shards.unfinished import Done, Plan, Unfinished
from jobs.shards.writing import Draft, in_order, write_shards
from jobs.storage import StorageError, join_url, open_storage

Report = Callable[[str, int, int], None]
"""Called with what is going on, how much is done and how much there is."""

_SHOWN = 5
_UPLOADS = 2
_MOST_THREADS = 32


@dataclass(frozen=True)
class Packed:
    """One part that was packed.

    Attributes:
        url: Where its shards lie.
        samples: How many pictures.
        shards: How many shards.
        hash: The data set's hash, as its index has it.
    """

    url: str
    samples: int
    shards: int
    hash: str


@dataclass(frozen=True)
class Packing:
    """What packing came to.

    Attributes:
        parts: By name; the only part's name is empty where there was no split.
        classes: Names of the classes, in the order of their numbers.
        left_out: Unreadable pictures that were left out.
        optimised: Progressive JPEGs that became baseline.
        resized: Pictures that were made smaller.
    """

    parts: dict[str, Packed]
    classes: list[str]
    left_out: list[Unreadable]
    optimised: int
    resized: int


def pack(
    source: str,
    destination: str,
    *,
    shard_bytes: int,
    shard_samples: int | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    changes: Changes = Changes(),  # noqa: B008 - frozen
    skip_unreadable: bool = False,
    overwrite: bool = False,
    index: str | None = None,
    report: Report = lambda what, done, total: None,
) -> Packing:
    """Pack pictures into shards, shuffled by `seed`, and index them.

    Pictures are read once, decoded to check them, and stored as they are unless `changes` asks for more. The same
    pictures, options and seed give the same shards, so packing that was stopped, in whatever way, goes on with the
    shards that are missing when it is called again. Until the end its record lies beside the shards (a local
    destination does not even exist before it is whole), and the root of the index is written last: nobody takes the
    unfinished for the whole. Local disk holds no more than a few shards at a time.

    Args:
        source: As for `open_pictures`.
        destination: A folder or prefix.
        shard_bytes: Most bytes in a shard (a larger picture gets a shard of its own).
        shard_samples: Most pictures in a shard.
        fractions: Shares by name; each part goes to a folder of its name.
        seed: Of the shuffle and the split.
        changes: What may be done to pictures.
        skip_unreadable: Leave out what cannot be decoded. Otherwise such pictures are all named at the end, and what
            was packed is kept unfinished.
        overwrite: Replace what was packed at the destination before. In S3 it goes first; a local folder is exchanged
            at the end.
        index: Where the index of the source is kept, where that is shards and it does not lie beside them.
        report: Told of progress.

    Raises:
        UserError: Nothing to pack, unreadable pictures, a destination that is not empty, or an unfinished packing of
            something else there.
        StorageError: Something cannot be read or written.
    """
    check_changes(changes)
    pictures = open_pictures(source, index=index, progress=lambda now, total: report("indexing", now, total))
    if len(pictures.classes) > MOST_LABEL + 1:
        raise UserError(
            f"{source} has {len(pictures.classes):,} classes, more than {MOST_LABEL + 1:,}.",
            hint="Folders directly below it, or names in a list, are taken for classes: are these meant to be?",
        )
    plan = Plan(
        source=source,
        pictures=len(pictures.labels),
        fingerprint=pictures.fingerprint,
        shard_bytes=shard_bytes,
        shard_samples=shard_samples,
        split=dict(fractions) if fractions else None,
        seed=seed,
        optimise=changes.optimise,
        max_side=changes.max_side,
    )
    parts = divide(pictures.labels, range(plan.pictures), fractions or {"": 1.0}, seed)
    with open_destination(destination, plan, list(parts), overwrite=overwrite, reads=pictures.places) as target:
        work = _Work(pictures, plan, changes, target, report)
        for name, numbers in parts.items():
            work.pack_part(name, numbers)
        left_out = sorted(item for record in target.unfinished.values() for item in record.left_out)
        _refuse_unreadable(left_out, plan.pictures, skip_unreadable, target)
        roots = target.finish(pictures.classes)
    packed = {
        name: Packed(
            join_url(target.url, name), sum(entry.count for entry in root.shards), len(root.shards), root.content
        )
        for name, root in roots.items()
    }
    done = [done for record in target.unfinished.values() for done in record.done]
    return Packing(
        parts=packed,
        classes=pictures.classes,
        left_out=left_out,
        optimised=sum(item.optimised for item in done),
        resized=sum(item.resized for item in done),
    )


class _Work:
    """Reads and checks pictures in many threads, writes shards in this one, and hands them on in two more."""

    def __init__(
        self, pictures: PictureSource, plan: Plan, changes: Changes, target: Destination, report: Report
    ) -> None:
        self._pictures = pictures
        self._plan = plan
        self._changes = changes
        self._target = target
        self._report = report
        self._done = 0

    def pack_part(self, name: str, numbers: Sequence[int]) -> None:
        """Pack what is missing of one part."""
        if name in self._target.finished:
            self._done += len(numbers)
            return
        record = self._target.unfinished[name]
        start = record.stop
        self._done += start
        names = (
            self._target.scratch / f"{name or 'shard'}-{number:06d}.tar" for number in itertools.count(len(record.done))
        )
        cpus = os.cpu_count() or 1
        threads = max(cpus, min(_MOST_THREADS, 4 * cpus))
        handed: deque[Future[Done]] = deque()
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="read") as readers,
            ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload") as uploaders,
        ):
            try:
                drafts = write_shards(
                    self._read(readers, numbers[start:], 4 * threads),
                    start=start,
                    digits=max(6, len(str(len(numbers) - 1))),
                    path=lambda: next(names),
                    shard_bytes=self._plan.shard_bytes,
                    shard_samples=self._plan.shard_samples,
                )
                for draft in drafts if start < len(numbers) else ():
                    if not draft.samples:  # only ever the first one of this attempt
                        _take_rest(record, draft, name, len(numbers))
                        continue
                    handed.append(uploaders.submit(self._hand_on, name, draft))
                    while len(handed) > _UPLOADS or (handed and handed[0].done()):
                        record.add(handed.popleft().result())
                while handed:
                    record.add(handed.popleft().result())
            except BaseException:
                readers.shutdown(wait=False, cancel_futures=True)
                _take_what_arrives(record, handed)
                raise

    def _hand_on(self, part: str, draft: Draft) -> Done:
        """Put a shard where it belongs, with its file of the index."""
        scratch = open_storage(str(self._target.scratch))
        # Read back rather than remembered: what is indexed is what lies on the disk.
        scanned = scan_shard(scratch, scratch.stat(draft.path.name))
        if len(scanned.samples) != draft.samples:
            raise StorageError(f"{draft.path} does not hold what was written to it.", hint="Is the disk sound?")
        shard = self._target.deliver(part, draft.path)
        return Done(
            start=draft.start,
            stop=draft.stop,
            entry=describe(shard, scanned, self._target.unfinished[part].place),
            left_out=tuple((item.number, item.name, item.reason) for item in draft.left_out),
            optimised=draft.optimised,
            resized=draft.resized,
        )

    def _read(
        self, pool: ThreadPoolExecutor, numbers: Sequence[int], ahead: int
    ) -> Iterator[tuple[Prepared | Unreadable, int]]:
        def read(number: int) -> Prepared | Unreadable:
            return prepare(self._pictures, number, self._changes)

        for number, found in zip(numbers, in_order(pool, read, numbers, ahead=ahead), strict=True):
            yield found, int(self._pictures.labels[number])
            self._done += 1
            self._report("packing", self._done, self._plan.pictures)


def _take_what_arrives(record: Unfinished, handed: Iterable[Future[Done]]) -> None:
    """Note shards that were on their way when the work was stopped, up to the first that is missing."""
    for future in handed:
        if future.exception() is not None or future.result().start != record.stop:
            return  # the record has no gaps: what lies behind one is packed again
        with contextlib.suppress(StorageError):  # what stopped the work is what has to be said
            record.add(future.result())


def _take_rest(record: Unfinished, draft: Draft, part: str, count: int) -> None:
    """Account for pictures at the end of a part none of which can be read, though one could be when it was begun."""
    if not record.done:
        raise UserError(
            f"No picture{f' of the part {part}' if part else ''} can be read "
            f"({len(draft.left_out)} of {count} pictures, {_first(draft.left_out)}).",
            hint="Are these the right files?",
        )
    last = record.done.pop()
    left_out = (*last.left_out, *((item.number, item.name, item.reason) for item in draft.left_out))
    record.add(last.model_copy(update={"stop": draft.stop, "left_out": left_out}))


def _refuse_unreadable(left_out: Sequence[Unreadable], count: int, skip: bool, target: Destination) -> None:
    if left_out and not skip:
        raise UserError(
            f"{len(left_out)} of {count} pictures cannot be read ({_first(left_out)}); {target.url} is not finished.",
            hint="Finish it without them by --skip-unreadable, or mend them and begin anew with --overwrite.",
        )


def _first(left_out: Sequence[Unreadable]) -> str:
    more = ", …" if len(left_out) > _SHOWN else ""
    return "; ".join(f"{item.name}: {item.reason}" for item in left_out[:_SHOWN]) + more
