"""Pictures of embeddings for people: a sheet of nearest neighbours and a map, with the pictures read again by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.embedding.encoder import Floats, decode_scaled
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


def neighbour_sheet(features: Floats, pictures: Sequence[Pixels], labels: NDArray[np.int64] | None, path: Path) -> None:
    """A contact sheet: some pictures, spread over the rows, each with its nearest neighbours by cosine.

    Args:
        features: Of the n pictures, float32 [n, c], n at least 1.
        pictures: The same n, uint8 [h, w, 3] each.
        labels: int64 [n], -1 for none; None where no picture has one.
        path: PNG to write.
    """
    queries = _spread(len(features))
    found = nearest([(0, features)], features[queries], SHEET_NEIGHBOURS + 1)
    _draw(queries, found, lambda rows: {row: pictures[row] for row in rows}, labels, path)


def draw_sheet(file: EmbeddingFile, source: Source, path: Path) -> None:
    """The same sheet of a file that need not fit into memory, with the pictures read again from their source."""
    queries = _spread(len(file))
    found = nearest(file.blocks(), file.features(queries), SHEET_NEIGHBOURS + 1)

    def read(rows: set[int]) -> dict[int, Pixels]:
        known = thumbnails(source, [file.key(row) for row in rows])
        return {row: known[file.key(row)] for row in rows}

    _draw(queries, found, read, file.labels, path)


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


def _spread(count: int) -> list[int]:
    """Rows of the queries: the first, the last, and some between."""
    return [int(row) for row in np.linspace(0, count - 1, min(SHEET_ROWS, count))]


def _draw(
    queries: Sequence[int],
    found: tuple[NDArray[np.int64], Floats],
    read: Callable[[set[int]], dict[int, Pixels]],
    labels: NDArray[np.int64] | None,
    path: Path,
) -> None:
    """Draw queries and what `nearest` found for them, one more than is shown; `read` gives pictures by row."""
    lines, titles = [], []
    for query, rows, similarities in zip(queries, found[0].tolist(), found[1].tolist(), strict=True):
        # By its row: an earlier picture with the same vector comes before it.
        others = [(row, near) for row, near in zip(rows, similarities, strict=True) if row != query]
        others = others[:SHEET_NEIGHBOURS]
        lines.append([query, *(row for row, _ in others)])
        titles.append(["query", *(f"{near:.2f}" for _, near in others)])
    pictures = read({row for line in lines for row in line})
    contact_sheet(
        [[pictures[row] for row in line] for line in lines],
        path,
        titles=titles,
        correct=None if labels is None else [_same_label(labels, line) for line in lines],
    )


def _same_label(labels: NDArray[np.int64], line: Sequence[int]) -> list[bool]:
    """Whether each picture is of the class of the first; those without a class are of none."""
    own = labels[line[0]]
    return [bool(own >= 0 and labels[row] == own) for row in line]
