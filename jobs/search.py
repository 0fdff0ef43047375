"""Nearest neighbours of a picture in a file of embeddings, as JSON: `python -m jobs.search FILE --picture PICTURE`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

from jobs.embedding.encoder import Floats, PackedEncoder, decode_scaled, pack_encoder
from jobs.embedding.errors import EmbeddingFileError
from jobs.embedding.neighbours import nearest
from jobs.embedding.reading import EmbeddingFile, open_embeddings
from jobs.embedding.sheets import thumbnails
from jobs.embedding.sources import open_source
from jobs.errors import RecoError, UserError
from jobs.loading.detail import Detail
from jobs.shards.decode import PictureError, Pixels
from jobs.storage import open_storage, split_url
from jobs.tracking.figures import contact_sheet
from jobs.training.ranks import pick_device

_THUMBNAIL = Detail.of_centre(160, 1.0)


class Neighbour(TypedDict):
    """One picture that was found; `label` is its class's name or number, None where it has none."""

    rank: int
    similarity: float
    key: str
    label: str | None


def main() -> int:
    """Search, and print what was found; returns the exit code."""
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING)
    try:
        found = _search(arguments)
    except RecoError as error:
        print(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps({"query": arguments.key or arguments.picture, "neighbours": found}, ensure_ascii=False))  # noqa: T201
    return 0


def check_model(file: EmbeddingFile, encoder: PackedEncoder) -> None:
    """See that an encoder is the one the vectors of a file are of.

    Raises:
        EmbeddingFileError: It is another: their vectors have nothing to do with each other.
    """
    if file.about is not None and file.about.sha256 != encoder.sha256:
        raise EmbeddingFileError(
            f"{file.path} holds vectors of {file.about.model} (weights {file.about.sha256[:12]}), "
            f"not of {encoder.reference} ({encoder.sha256[:12]}).",
            hint=f"Search with --model {file.about.model}, or embed the pictures again with the other one.",
        )


def _search(arguments: argparse.Namespace) -> list[Neighbour]:
    if (arguments.picture is None) == (arguments.key is None):
        raise UserError("there is not one query.", hint="Name either a picture or --key KEY.")
    if arguments.k < 1:
        raise UserError(f"-k {arguments.k}: there must be at least one.", hint="8 is usual.")
    with tempfile.TemporaryDirectory() as temporary:
        file = open_embeddings(arguments.file, Path(temporary))
        itself = None
        data = b""
        if arguments.key is not None:
            if arguments.model is not None:
                check_model(file, pack_encoder(arguments.model, arguments.home))
            itself = file.row(arguments.key)
            query = file.features([itself])
        else:
            data = _read(arguments.picture)
            query = _embed(arguments, file, data)
        rows, similarities = nearest(file.blocks(), query, arguments.k + (itself is not None))
        pairs = zip(rows[0].tolist(), similarities[0].tolist(), strict=True)
        pairs_kept = [(row, similarity) for row, similarity in pairs if row != itself][: arguments.k]
        found = [
            Neighbour(rank=rank, similarity=similarity, key=file.key(row), label=file.label(row))
            for rank, (row, similarity) in enumerate(pairs_kept, start=1)
        ]
        if arguments.sheet is not None:
            _draw(arguments, file, found, data)
        return found


def _read(picture: str) -> bytes:
    folder, name = split_url(picture)
    return open_storage(folder).read(name)


def _embed(arguments: argparse.Namespace, file: EmbeddingFile, data: bytes) -> Floats:
    reference = arguments.model or (file.about.model if file.about else None)
    if reference is None:
        raise UserError(f"{arguments.file} does not say which encoder it is of.", hint="Name it with --model.")
    packed = pack_encoder(reference, arguments.home)
    check_model(file, packed)
    encoder = packed.unpack(pick_device(0))
    try:
        features = encoder([encoder.decode(data)])
    except PictureError as error:
        raise UserError(f"{arguments.picture} cannot be read as a picture: {error.message}.") from error
    if features.shape[1] != file.width:
        raise EmbeddingFileError(
            f"{arguments.file} holds vectors of {file.width} numbers, {packed.reference} makes {features.shape[1]}.",
            hint="Name the encoder the file was made with.",
        )
    return features


def _draw(arguments: argparse.Namespace, file: EmbeddingFile, found: list[Neighbour], data: bytes) -> None:
    places = arguments.pictures or (file.about.source if file.about else [])
    if not places:
        raise UserError(
            f"{arguments.file} does not say where its pictures are.", hint="Name them with --pictures SOURCE."
        )
    keys = [each["key"] for each in found]
    known: dict[str, Pixels] = thumbnails(open_source(places), [*keys, *([arguments.key] if arguments.key else [])])
    query = known[arguments.key] if arguments.key else decode_scaled(data, _THUMBNAIL)
    titles = ["query", *(f"{each['similarity']:.2f}" for each in found)]
    contact_sheet([[query, *(known[key] for key in keys)]], arguments.sheet, titles=[titles])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.search", description=__doc__)
    parser.add_argument("file", help="a .parquet or .npy file that reco embed has written")
    parser.add_argument("--picture", help="a JPEG, PNG or WebP file, on disk or in S3")
    parser.add_argument("--key", help="a picture of the file itself")
    parser.add_argument("--model", help="name, name@alias, name/version, or an encoder's folder; else the file's own")
    parser.add_argument("-k", type=int, default=8, help="how many")
    parser.add_argument("--sheet", type=Path, help="draw the pictures that were found into this PNG")
    parser.add_argument("--pictures", action="append", help="where they are; else where the file says; may be repeated")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
