"""Embeddings of pictures by a registered encoder: `python -m jobs.embed MODEL PICTURES --out FILE`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
from pathlib import Path

from jobs.embedding.encoder import pack_encoder
from jobs.embedding.job import Job, Options
from jobs.embedding.parts import SIZE
from jobs.embedding.reading import open_embeddings
from jobs.embedding.sheets import draw_map, draw_sheet
from jobs.embedding.sources import open_source
from jobs.embedding.worker import BATCH
from jobs.embedding.writing import SKIPPED_SUFFIX, Output
from jobs.errors import RecoError, UserError

INTERRUPTED = 130


def main() -> int:
    """Embed and write; returns the exit code."""
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: whoever started this may have been told to ignore it
        signal.signal(number, signal.default_int_handler)
    jobs: list[Job] = []
    try:
        _embed(arguments, jobs)
    except RecoError as error:
        _note(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:
        kept = f"; finished parts are kept in {jobs[0].parts.url}, and the same command goes on" if jobs else ""
        _note(f"stopped{kept}")
        return INTERRUPTED
    return 0


def _embed(arguments: argparse.Namespace, jobs: list[Job]) -> None:
    """Do it; the job is put into `jobs` as soon as it has something to lose."""
    _check(arguments)
    output = Output(arguments.out)
    source = open_source(arguments.pictures)
    encoder = pack_encoder(arguments.model, arguments.home)
    options = Options(
        workers=arguments.workers,
        cpus=arguments.cpus,
        parts=arguments.parts,
        restart=arguments.restart,
        max_bad=arguments.max_bad,
        part_size=arguments.part_size,
    )
    job = Job(encoder, source, output, options)
    jobs.append(job)
    embedded = job.run(say=_note)
    jobs.clear()
    _say(f"✓ {embedded.count:,} embeddings of {embedded.width} numbers in {arguments.out}")
    if embedded.skipped:
        pictures = "picture was" if embedded.skipped == 1 else "pictures were"
        where = f"{arguments.out}{SKIPPED_SUFFIX}"
        _say(f"! {embedded.skipped:,} {pictures} skipped; {where} says which and why")
    if not (arguments.sheet or arguments.map):
        return
    with tempfile.TemporaryDirectory() as temporary:
        file = open_embeddings(arguments.out, Path(temporary))
        if arguments.sheet:
            draw_sheet(file, source, arguments.sheet)
            _say(f"✓ nearest neighbours in {arguments.sheet}")
        if arguments.map:
            draw_map(file, source, arguments.map, title=f"{arguments.model}: {' '.join(arguments.pictures)}")
            _say(f"✓ map of the embeddings in {arguments.map}")


def _check(arguments: argparse.Namespace) -> None:
    for name in ("workers", "cpus"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise UserError(f"--{name} {given}: there must be at least one.", hint="Leave it out for the default.")
    if arguments.part_size < 1 or arguments.part_size % BATCH:
        raise UserError(
            f"--part-size {arguments.part_size} is no multiple of {BATCH}.",
            hint="Vectors would depend on it: pictures are embedded in batches of that many.",
        )
    if not 0 <= arguments.max_bad <= 1:
        raise UserError(f"--max-bad {arguments.max_bad} is no share of the pictures.", hint="Give 0 to 1, as 0.001.")


def _say(line: str) -> None:
    print(line)  # noqa: T201


def _note(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.embed", description=__doc__)
    parser.add_argument("model", help="name, name@alias, name/version, or an encoder's folder")
    parser.add_argument("pictures", nargs="+", help="a folder or prefix of pictures, or shards: one or several")
    parser.add_argument("--out", required=True, help="a .parquet or .npy file, on disk or in S3")
    parser.add_argument("--workers", type=int, help="how many, on the Ray cluster where there is one")
    parser.add_argument("--cpus", type=int, help="cores of each worker")
    parser.add_argument("--parts", help="folder or prefix for finished parts; beside the output by default")
    parser.add_argument("--restart", action="store_true", help="throw away the finished parts of an earlier command")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="largest share of the pictures that may be skipped"
    )
    parser.add_argument("--part-size", type=int, default=SIZE, help=f"pictures in a part, a multiple of {BATCH}")
    parser.add_argument("--sheet", type=Path, help="draw nearest neighbours into this PNG")
    parser.add_argument("--map", type=Path, help="draw a map of the embeddings into this PNG")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
