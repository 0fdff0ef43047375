"""Packs pictures into shards; indexes, verifies and describes shards: `python -m jobs.data pack|index|verify …`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from jobs.errors import RecoError, UserError
from jobs.shards.dataset import open_dataset
from jobs.shards.pack import Packing, pack
from jobs.shards.prepare import Changes
from jobs.shards.sheet import draw_samples
from jobs.shards.split import parse_split
from jobs.shards.stats import Stats, describe
from jobs.shards.verify import verify
from jobs.storage import open_storage, split_url

Result = tuple[dict[str, object], int]
"""What `--json` prints, and the exit code."""

_MEGABYTE = 1_000_000
_FAILED = 1
_INTERRUPTED = 130
_SHOWN = 5
_HISTOGRAM = 30
_WIDTH = 40


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments ask; returns the exit code."""
    given = _parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        result, code = _COMMANDS[given.command](given)
        if given.json:
            _say(json.dumps(result, indent=2, ensure_ascii=False))
    except RecoError as error:
        _fail(error, error.message, error.hint, given.debug)
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = ", and the same command goes on from here" if given.command == "verify" and given.record else ""
        _say(f"stopped; {_WHEN_STOPPED[given.command]}{goes_on}", sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has; what is buffered must not fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception as error:  # noqa: BLE001 - the last stop before the user: said in a line, and never passed over
        first = next(iter(str(error).splitlines()), "")
        said = f"unexpected: {type(error).__name__}{': ' if first else ''}{first}"
        _fail(error, said, None if given.debug else "Run again with `reco --debug data …` to see where.", given.debug)
        return _FAILED
    return code


def _fail(error: Exception, message: str, hint: str | None, debug: bool) -> None:
    if debug:
        _say("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
    _say(f"error: {message}" + (f"\n  → {hint}" if hint else ""), sys.stderr)


def _pack(given: argparse.Namespace) -> Result:
    if given.shard_size <= 0 or (given.shard_samples is not None and given.shard_samples < 1):
        raise UserError("A shard has to hold something.", hint="Give --shard-size and --shard-samples above 0.")
    if not 0 <= given.seed < 2**64:
        raise UserError(f"The seed {given.seed} does not fit 64 bits.", hint="Give a whole number from 0.")
    with _bars() as report:
        packing = pack(
            given.source,
            given.destination,
            shard_bytes=int(given.shard_size * _MEGABYTE),
            shard_samples=given.shard_samples,
            fractions=parse_split(given.split) if given.split else None,
            seed=given.seed,
            changes=Changes(optimise=given.lossless_optimise, max_side=given.max_side),
            skip_unreadable=given.skip_unreadable,
            overwrite=given.overwrite,
            index=given.index,
            report=report,
        )
    if not given.json:
        _tell(packing)
    parts = {name or "all": vars(part) for name, part in packing.parts.items()}
    left_out = [{"name": item.name, "reason": item.reason} for item in packing.left_out]
    result = {"parts": parts, "classes": packing.classes, "left_out": left_out}
    return {**result, "optimised": packing.optimised, "resized": packing.resized}, 0


def _tell(packing: Packing) -> None:
    for part in packing.parts.values():
        shards = f"{part.shards:,} shard{'s' if part.shards > 1 else ''}"
        _say(f"✓ {part.samples:,} pictures in {shards} at {part.url} (content {part.hash[:16]})")
    if packing.classes:
        _say(f"  {len(packing.classes)} classes, named in classes.json")
    if packing.optimised:
        _say(f"  {packing.optimised:,} progressive JPEGs were made baseline, to the same pixels")
    if packing.resized:
        _say(f"  {packing.resized:,} pictures were made smaller")
    if packing.left_out:
        names = ", ".join(item.name for item in packing.left_out[:5])
        more = ", …" if len(packing.left_out) > 5 else ""
        _say(f"! {len(packing.left_out)} unreadable pictures were left out: {names}{more}")


def _index(given: argparse.Namespace) -> Result:
    with _bars() as report:
        dataset = open_dataset(
            given.source,
            index=given.index,
            rebuild=given.rebuild,
            progress=lambda done, total: report("indexing", done, total),
        )
    height, width = dataset.max_size
    if not given.json:
        _say(f"✓ {len(dataset):,} samples in {len(dataset.counts):,} shards (content {dataset.hash[:16]})")
        _say(f"  up to {width}×{height} pixels; {dataset.num_classes or 'no'} classes")
        if dataset.left_out:
            _say(f"! {dataset.left_out:,} samples cannot be used and were left out:")
            for name, reason in itertools.islice(dataset.left_out_samples(), _SHOWN):
                _say(f"    {name}: {reason}")
            if dataset.left_out > _SHOWN:
                _say(f"    … and {dataset.left_out - _SHOWN:,} more; --json lists them all")
    result: dict[str, object] = {
        "hash": dataset.hash,
        "samples": len(dataset),
        "shards": len(dataset.counts),
        "classes": dataset.num_classes,
        "max_height": height,
        "max_width": width,
        "left_out": [{"name": name, "reason": reason} for name, reason in dataset.left_out_samples()],
    }
    return result, 0


def _verify(given: argparse.Namespace) -> Result:
    with _bars() as report:
        verdict = verify(
            given.source,
            index=given.index,
            progress=lambda done, total: report("verifying", done, total),
            record=given.record,
            fresh=given.fresh,
        )
    faults = verdict.faults
    if not given.json:
        for shard, key, reason in faults:
            _say(f"✗ {shard}{'/' if key else ''}{key}: {reason}")
        if verdict.before:
            _say(f"  it went on: {verdict.before:,} shards were read before, since {verdict.began}; --fresh reads all")
        what = f"{verdict.samples:,} samples in {verdict.shards:,} shards"
        _say(f"✗ {len(faults):,} faults; {what} were checked" if faults else f"✓ {what}: every byte is as indexed")
    listed = [fault._asdict() for fault in faults]
    result = {"shards": verdict.shards, "samples": verdict.samples, "read_before": verdict.before, "faults": listed}
    return result, 1 if faults else 0


def _stats(given: argparse.Namespace) -> Result:
    with _bars() as report:
        dataset = open_dataset(
            given.source, index=given.index, progress=lambda done, total: report("indexing", done, total)
        )
        stats = describe(dataset, given.source)
        if given.sheet:
            sheet = draw_samples(dataset, stats.classes, count=given.samples, seed=given.seed)
            folder, name = split_url(given.sheet)
            open_storage(folder).write(name, sheet)
    if not given.json:
        _tell_stats(stats)
        if given.sheet:
            _say(f"✓ {min(given.samples, len(dataset))} samples drawn in {given.sheet}")
    return dataclasses.asdict(stats), 0


def _tell_stats(stats: Stats) -> None:
    left_out = f", {stats.left_out:,} left out" if stats.left_out else ""
    _say(f"{stats.samples:,} samples in {stats.shards:,} shards{left_out} (content {stats.hash[:16]})")
    _say(f"{stats.shard_bytes / 1e9:,.3f} GB, of which pictures {stats.picture_bytes / 1e9:,.3f} GB")
    _say(f"{'':<8}{'min':>12}{'median':>12}{'max':>12}")
    for name, spread in (("height", stats.height), ("width", stats.width), ("bytes", stats.bytes)):
        _say(f"{name:<8}{spread.min:>12,}{spread.median:>12,.0f}{spread.max:>12,}")
    _say("formats  " + ", ".join(f"{name} {count:,}" for name, count in stats.formats.items()))
    if not stats.labels:
        _say("labels   none")
        return
    unlabelled = f", {stats.unlabelled:,} samples without" if stats.unlabelled else ""
    _say(f"labels   {len(stats.labels):,} classes{unlabelled}")
    most = max(stats.labels.values())
    for label, count in itertools.islice(stats.labels.items(), _HISTOGRAM):
        name = stats.classes[label] if label < len(stats.classes) else str(label)
        _say(f"  {name[:20]:<20} {count:>12,}  {'█' * max(1, round(_WIDTH * count / most))}")
    if len(stats.labels) > _HISTOGRAM:
        least = min(stats.labels.values())
        _say(
            f"  … {len(stats.labels) - _HISTOGRAM:,} more; each class has {least:,} to {most:,}; --json lists them all"
        )


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each kind of work; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<9}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            # A second part of the same work starts the bar again, with its own total.
            progress.update(tasks[what], completed=done, total=total)

        yield report


def _interrupt(number: int, frame: FrameType | None) -> None:
    # The first signal ends the work; further ones must not end the clearing up.
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(text: str, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="pictures to shards with an index")
    packing.add_argument("source", help="pictures, a .csv or .parquet list, shards, or the word `digits`")
    packing.add_argument("destination", help="a folder or s3://bucket/prefix")
    packing.add_argument("--shard-size", type=float, default=100.0, help="most megabytes in a shard")
    packing.add_argument("--shard-samples", type=int, help="most pictures in a shard")
    packing.add_argument("--split", help="such as train=0.8,valid=0.1,test=0.1")
    packing.add_argument("--seed", type=int, default=0, help="of the shuffle and the split")
    packing.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be decoded")
    packing.add_argument("--lossless-optimise", action="store_true", help="progressive to baseline JPEG")
    packing.add_argument("--max-side", type=int, help="encode pictures with a longer side anew")
    packing.add_argument("--index", help="where the index of a source of shards is kept, if not beside them")
    packing.add_argument("--overwrite", action="store_true", help="replace the shards at the destination")
    indexing = commands.add_parser("index", help="check the index of shards, or build it")
    indexing.add_argument("--rebuild", action="store_true", help="build it even where there is one")
    verifying = commands.add_parser("verify", help="read every byte, decode every picture")
    verifying.add_argument("--record", type=Path, help="local folder to note in what is done, to go on with")
    verifying.add_argument("--fresh", action="store_true", help="read everything, also what was read before")
    describing = commands.add_parser("stats", help="counts, sizes, formats, labels")
    describing.add_argument("--sheet", help="PNG to draw samples in")
    describing.add_argument("--samples", type=int, default=48, help="how many to draw")
    describing.add_argument("--seed", type=int, default=0, help="of the choice of samples")
    for command in (indexing, verifying, describing):
        command.add_argument("source", nargs="+", help="folder, prefix, shard or brace pattern")
        command.add_argument("--index", help="where the index is kept, if not beside the shards")
    for command in (packing, indexing, verifying, describing):
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "pack": _pack,
    "index": _index,
    "verify": _verify,
    "stats": _stats,
}
_WHEN_STOPPED = {
    "pack": "nothing half-written was left, and the same command goes on from here",
    "index": "nothing half-written was left, and the same command goes on from here",
    "verify": "nothing was changed",
    "stats": "nothing half-written was left",
}


if __name__ == "__main__":
    sys.exit(main())
