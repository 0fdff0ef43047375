"""Pictures of embeddings for people: a sheet of nearest neighbours and a map, with the pictures read again by key."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jobs.embedding.encoder import decode_scaled
from jobs.embedding.neighbours import nearest, unit
from jobs.embedding.reading import EmbeddingFile
from jobs.embedding.sources import Source, Unusable, find
from jobs.errors import UserError
from jobs.loading.detail import Detail
from jobs.shards.decode import Pixels
from jobs.tracking.figures import contact_sheet, embedding_map

SHEET_ROWS, SHEET_NEIGHBOURS = 8, 8
MAP_POINTS = 2000

_SIDE = 160  # pixels that a picture of a sheet has on paper
_READS = 8


def draw_sheet(file: EmbeddingFile, source: Source, path: Path) -> None:
    """A contact sheet: some pictures, each with its nearest neighbours by cosine."""
    queries = np.linspace(0, len(file) - 1, min(SHEET_ROWS, len(file))).astype(int).tolist()
    rows, similarities = nearest(file.blocks(), file.features(queries), SHEET_NEIGHBOURS + 1)
    shown, titles = [], []
    for query, found, similarity in zip(queries, rows.tolist(), similarities.tolist(), strict=True):
        others = [(row, near) for row, near in zip(found, similarity, strict=True) if row != query]
        others = others[:SHEET_NEIGHBOURS]
        shown.append([query, *(row for row, _ in others)])
        titles.append(["query", *(f"{near:.2f}" for _, near in others)])
    pictures = thumbnails(source, [file.key(row) for line in shown for row in line])
    contact_sheet(
        [[pictures[file.key(row)] for row in line] for line in shown],
        path,
        titles=titles,
        correct=_same_label(file, shown),
    )


def draw_map(file: EmbeddingFile, source: Source, path: Path, *, title: str) -> None:
    """A map of at most 2,000 embeddings in two dimensions by t-SNE (van der Maaten and Hinton, 2008)."""
    from sklearn.manifold import TSNE  # a second to import, which embedding without a map should not pay

    chosen = np.linspace(0, len(file) - 1, min(MAP_POINTS, len(file))).astype(int).tolist()
    perplexity = min(30.0, max(2.0, len(chosen) / 4))
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(unit(file.features(chosen)))
    keys = [file.key(row) for row in chosen]
    pictures = thumbnails(source, keys)
    labels = None if file.labels is None else [file.label(row) or "none" for row in chosen]
    embedding_map(points, labels, path, title=title, thumbnails=[pictures[key] for key in keys])


def thumbnails(source: Source, keys: Sequence[str]) -> dict[str, Pixels]:
    """Small pictures, uint8 [h, w, 3], by their keys.

    Raises:
        UserError: One of them is not there, or cannot be read any more.
    """
    unique = list(dict.fromkeys(keys))
    detail = Detail.of_centre(_SIDE, 1.0)

    def read(place: int) -> Pixels:
        (data,) = source.read(place, place + 1)
        if isinstance(data, Unusable):
            raise UserError(f"{source.keys(place, place + 1)[0]}: {data.reason}.", hint="It was usable before.")
        return decode_scaled(data, detail)

    with ThreadPoolExecutor(_READS, "thumbnails") as pool:
        return dict(zip(unique, pool.map(read, find(source, unique)), strict=True))


def _same_label(file: EmbeddingFile, rows: list[list[int]]) -> list[list[bool]] | None:
    labels = file.labels
    if labels is None:
        return None
    return [[bool(labels[row] == labels[line[0]]) for row in line] for line in rows]
