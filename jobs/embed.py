"""Embeddings of pictures by a registered encoder: `python -m jobs.embed MODEL PICTURES --out FILE`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.errors import RecoError, UserError
from jobs.loading.pipeline import read_in_order
from jobs.reco import build_encoder
from jobs.shards.dataset import open_dataset
from jobs.shards.decode import PictureError, decode
from jobs.storage import Storage, open_storage
from jobs.tracking.encoders import load_encoder_files
from jobs.tracking.figures import contact_sheet, embedding_map
from jobs.tracking.models import fetch_encoder
from jobs.tracking.server import tracking_uri
from jobs.training.feed import packed
from jobs.training.ranks import pick_device
from jobs.views import Pictures, centre_view

BATCH = 128
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHEET_ROWS, SHEET_NEIGHBOURS = 8, 8
MAP_POINTS = 2000


class Named(NamedTuple):
    """A batch of pictures with their names, and labels where there are any."""

    keys: list[str]
    labels: np.ndarray | None
    pictures: Pictures


def main() -> int:
    """Embed and write; returns the exit code."""
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING)
    try:
        _check_output(arguments.out)
        with tempfile.TemporaryDirectory() as temporary:
            uri = "" if Path(arguments.model).is_dir() else tracking_uri(arguments.home)
            folder = fetch_encoder(arguments.model, uri, Path(temporary) / "encoder")
            encoder, preprocessing = load_encoder(folder)
        count, batches = open_pictures(arguments.pictures)
        embedded = embed(encoder, preprocessing, batches, count, keep=arguments.sheet or arguments.map)
        write(embedded, arguments.out)
        print(f"✓ {len(embedded.keys)} embeddings of {embedded.features.shape[1]} numbers in {arguments.out}")  # noqa: T201
        if arguments.sheet:
            draw_sheet(embedded, arguments.sheet)
            print(f"✓ nearest neighbours in {arguments.sheet}")  # noqa: T201
        if arguments.map:
            draw_map(embedded, arguments.map, title=f"{arguments.model}: {arguments.pictures}")
            print(f"✓ map of the embeddings in {arguments.map}")  # noqa: T201
    except RecoError as error:
        print(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)  # noqa: T201
        return 130
    return 0


class Embedded(NamedTuple):
    """Embeddings in the order of their keys.

    Attributes:
        keys: Names of the pictures.
        labels: Shape (n,), int64, or None.
        features: Shape (n, c), float32, not normalised.
        thumbnails: The pictures themselves, where they were asked for.
    """

    keys: list[str]
    labels: np.ndarray | None
    features: np.ndarray
    thumbnails: list[np.ndarray]


def load_encoder(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """An encoder in evaluation mode, and its preprocessing, from its files; no pickle is opened."""
    state, config, preprocessing = load_encoder_files(folder)
    encoder = build_encoder(str(config["name"]), stem=config["stem"], width=int(str(config["width"])))  # type: ignore[arg-type]
    encoder.load_state_dict(state)
    return encoder.to(memory_format=torch.channels_last).eval(), preprocessing  # type: ignore[call-overload]


def open_pictures(source: str) -> tuple[int, Iterator[Named]]:
    """How many pictures a folder, prefix or set of shards holds, and the pictures in stable order.

    Raises:
        UserError: If there are none.
    """
    if ".tar" not in source:
        storage = open_storage(source)
        names = [stored.key for stored in storage.list() if stored.key.lower().endswith(SUFFIXES)]
        if names:
            return len(names), _from_files(storage, names)
    dataset = open_dataset(source)
    return len(dataset), (
        Named([dataset.key(i) for i in batch.sample_ids], batch.labels, packed(batch))
        for batch in read_in_order(dataset, 0, len(dataset), BATCH)
    )


def _from_files(storage: Storage, names: list[str]) -> Iterator[Named]:
    for start in range(0, len(names), BATCH):
        part = names[start : start + BATCH]
        decoded = []
        for name in part:
            try:
                decoded.append(decode(storage.read(name)))
            except PictureError as error:
                raise UserError(
                    f"{storage.url}/{name} cannot be read as a picture: {error.message}", hint="Mend or remove it."
                ) from error
        yield Named(part, None, Pictures.pack(decoded))


@torch.no_grad()
def embed(
    encoder: torch.nn.Module, preprocessing: dict[str, Any], batches: Iterator[Named], count: int, *, keep: bool
) -> Embedded:
    """Embed every picture, with a progress bar.

    Args:
        encoder: From (n, 3, s, s) to (n, c), in evaluation mode.
        preprocessing: The encoder's own `image_size` and `crop_fraction`.
        batches: The pictures.
        count: How many there are in all.
        keep: Whether to keep the pictures for drawing.
    """
    device = pick_device(0)
    encoder.to(device)
    keys: list[str] = []
    labels: list[np.ndarray] = []
    features: list[np.ndarray] = []
    thumbnails: list[np.ndarray] = []
    columns = (
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("embedding", total=count)
        for batch in batches:
            views = centre_view(
                batch.pictures.to(device),
                image_size=preprocessing["image_size"],
                crop_fraction=preprocessing["crop_fraction"],
            )
            features.append(encoder(views).float().cpu().numpy())
            keys += batch.keys
            if batch.labels is not None:
                labels.append(batch.labels)
            if keep:
                thumbnails += [batch.pictures.picture(number).numpy() for number in range(len(batch.keys))]
            bar.advance(task, len(batch.keys))
    return Embedded(keys, np.concatenate(labels) if labels else None, np.concatenate(features), thumbnails)


def write(embedded: Embedded, path: Path) -> None:
    """Write parquet (key, label where known, embedding) or npy (the matrix; keys in FILE.keys.txt), whole or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, embedded.features)
            path.with_name(path.name + ".keys.txt").write_text("".join(f"{key}\n" for key in embedded.keys))
        else:
            width = embedded.features.shape[1]
            columns = {"key": pa.array(embedded.keys)}
            if embedded.labels is not None:
                columns["label"] = pa.array(embedded.labels)
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(embedded.features.ravel()), width)
            pq.write_table(pa.table(columns), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_sheet(embedded: Embedded, path: Path) -> None:
    """A contact sheet: some pictures, each with its nearest neighbours by cosine."""
    unit = embedded.features / np.linalg.norm(embedded.features, axis=1, keepdims=True).clip(1e-12)
    queries = np.linspace(0, len(unit) - 1, min(SHEET_ROWS, len(unit))).astype(int)
    rows, titles, correct = [], [], []
    for query in queries:
        similarity = unit @ unit[query]
        nearest = [i for i in np.argsort(-similarity, kind="stable") if i != query][:SHEET_NEIGHBOURS]
        rows.append([embedded.thumbnails[i] for i in (query, *nearest)])
        titles.append(["query", *(f"{similarity[i]:.2f}" for i in nearest)])
        if embedded.labels is not None:
            correct.append([True, *(bool(embedded.labels[i] == embedded.labels[query]) for i in nearest)])
    contact_sheet(rows, path, titles=titles, correct=correct or None)


def draw_map(embedded: Embedded, path: Path, *, title: str) -> None:
    """A map of at most 2,000 embeddings in two dimensions by t-SNE (van der Maaten and Hinton, 2008)."""
    from sklearn.manifold import TSNE

    chosen = np.linspace(0, len(embedded.keys) - 1, min(MAP_POINTS, len(embedded.keys))).astype(int)
    unit = embedded.features[chosen]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True).clip(1e-12)
    perplexity = min(30.0, max(2.0, len(chosen) / 4))
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(unit)
    labels = embedded.labels[chosen] if embedded.labels is not None else None
    embedding_map(points, labels, path, title=title, thumbnails=[embedded.thumbnails[i] for i in chosen])


def _check_output(path: Path) -> None:
    if path.suffix not in (".parquet", ".npy"):
        raise UserError(f"{path} is neither .parquet nor .npy.", hint="Name the output file with one of these endings.")
    if path.is_dir():
        raise UserError(f"{path} is a folder.", hint="Name a file.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.embed", description=__doc__)
    parser.add_argument("model", help="name, name@alias, name/version, or an encoder's folder")
    parser.add_argument("pictures", help="a folder or prefix of pictures, or shards")
    parser.add_argument("--out", type=Path, required=True, help="a .parquet or .npy file")
    parser.add_argument("--sheet", type=Path, help="draw nearest neighbours into this PNG")
    parser.add_argument("--map", type=Path, help="draw a map of the embeddings into this PNG")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
