"""Embeds a source whole: the parts that are missing, on this machine or a cluster, then one file of all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.embedding.encoder import PackedEncoder
from jobs.embedding.errors import BadPicturesError
from jobs.embedding.parts import SIZE, Manifest, PartsFolder, to_bytes
from jobs.embedding.place import at_a_cluster
from jobs.embedding.sources import Source
from jobs.embedding.worker import BATCH, Skipped, Worker, spans
from jobs.embedding.writing import SKIPPED_SUFFIX, About, Output, write_output, write_skipped
from jobs.training.ranks import pick_device

SHOWN = 3
"""Bad pictures that a message names."""


@dataclass(frozen=True)
class Options:
    """How a source is embedded; the vectors depend on none of it.

    Attributes:
        workers: How many; None for one here, or as many as the cluster has GPUs, else hosts.
        cpus: Cores of each worker; None for as many as there are.
        parts: Where finished parts are kept; None for beside the output.
        restart: Throw away finished parts.
        max_bad: Largest share of the pictures that may be skipped, 0 to 1; above 0, one always may be.
        part_size: Pictures in a part, a multiple of `BATCH`.
    """

    workers: int | None = None
    cpus: int | None = None
    parts: str | None = None
    restart: bool = False
    max_bad: float = 0.001
    part_size: int = SIZE


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        count: Vectors,
        width: of so many numbers.
        skipped: Pictures that could not be used.
    """

    count: int
    width: int
    skipped: int


class Job:
    """The embedding of a source into an output.

    Args:
        encoder: The encoder.
        source: The pictures.
        output: Where to.
        options: How.

    Raises:
        OtherWorkError: The parts that are there are of other work.
        StorageError: They cannot be read.
    """

    def __init__(self, encoder: PackedEncoder, source: Source, output: Output, options: Options) -> None:
        self._encoder, self._source, self._output, self._options = encoder, source, output, options
        self._spans = list(spans(len(source), options.part_size))
        manifest = Manifest(
            model=encoder.sha256,
            preprocessing=encoder.preprocessing.as_dict(),
            source=source.identity,
            pictures=len(source),
            part=options.part_size,
            batch=BATCH,
        )
        self.parts = PartsFolder(options.parts or output.parts_url, manifest, restart=options.restart)
        self._skipped = self.parts.skipped()

    def run(self, *, say: Callable[[str], None]) -> Embedded:
        """Embed what is missing, write the output, and remove the parts.

        Args:
            say: Told in a line what is found.

        Raises:
            BadPicturesError: More pictures than `max_bad` cannot be used.
            RecoError: Pictures or storage cannot be had.
        """
        done = self.parts.finished()
        missing = [(number, span) for number, span in enumerate(self._spans) if number not in done]
        if done and missing:
            say(f"going on: {len(done)} of {len(self._spans)} parts are done")
        self._check_bad()
        if missing:
            with self._bar(sum(len(span) for _, span in missing)) as advance:
                self._embed(missing, advance)
        about = About(
            self._encoder.reference,
            self._encoder.sha256,
            self._encoder.preprocessing.as_dict(),
            self._source.places,
            self._source.classes,
        )
        skipped = self._all_skipped()
        write_skipped(self._output, skipped)
        count, width = write_output(self._output, self.parts, range(len(self._spans)), about)
        self.parts.remove()
        return Embedded(count, width, len(skipped))

    def _embed(self, missing: Sequence[tuple[int, range]], advance: Callable[[int], None]) -> None:
        for number, data, skipped in self._finished(missing):
            self.parts.write(number, data, skipped)
            if skipped:
                self._skipped[number] = skipped
                self._check_bad()
            advance(len(self._spans[number]))

    def _finished(self, missing: Sequence[tuple[int, range]]) -> Iterator[tuple[int, bytes, list[Skipped]]]:
        options = self._options
        if at_a_cluster() or (options.workers or 1) > 1:
            # Late: Ray takes seconds to import, which a single worker does not need.
            from jobs.embedding.cluster import joined, share_out, waiting_said
            from jobs.embedding.ray_workers import embed_on_cluster

            with joined():
                share = share_out(options.workers, options.cpus)
                with waiting_said(share, "MapWorker"):
                    yield from embed_on_cluster(self._encoder, self._source, missing, share)
            return
        threads = options.cpus or len(os.sched_getaffinity(0))
        with Worker(self._encoder.unpack(pick_device(0)), self._source, threads=threads) as worker:
            parts = worker.embed_each([span for _, span in missing])
            for (number, _), part in zip(missing, parts, strict=True):
                yield number, to_bytes(part), part.skipped

    def _all_skipped(self) -> list[Skipped]:
        left_out = [Skipped(key, reason) for key, reason in self._source.left_out]
        return [each for number in sorted(self._skipped) for each in self._skipped[number]] + left_out

    def _check_bad(self) -> None:
        bad = self._all_skipped()
        total = len(self._source) + len(self._source.left_out)
        allowed = max(int(self._options.max_bad * total), 1 if self._options.max_bad else 0)
        if len(bad) <= allowed:
            return
        write_skipped(self._output, bad)
        first = "; ".join(f"{each.key}: {each.reason}" for each in bad[:SHOWN])
        raise BadPicturesError(
            f"{len(bad)} of {total} pictures cannot be used so far, {allowed} may be skipped ({first}).",
            hint=f"{self._output.url}{SKIPPED_SUFFIX} lists them: mend them, or allow more with --max-bad. "
            "Finished parts are kept.",
        )

    def _bar(self, missing: int) -> _Bar:
        return _Bar(len(self._source), len(self._source) - missing)


class _Bar:
    """A progress bar on stderr; entering it gives what counts pictures."""

    def __init__(self, total: int, done: int) -> None:
        columns = (
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("embedding", total=total, completed=done)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return lambda pictures: self._progress.advance(self._task, pictures)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
