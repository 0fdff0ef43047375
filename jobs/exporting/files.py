"""Where an export goes: checked before anything is fetched, and there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import UserError
from jobs.exporting.errors import ExportError
from jobs.tracking.files import sha256


def description_of(path: Path) -> Path:
    """The JSON file beside an export, which says what it is and how pictures are prepared for it."""
    return path.with_name(f"{path.name}.json")


def quoted(path: Path) -> str:
    """The path as a string of Python and of YAML."""
    return json.dumps(str(path), ensure_ascii=False)


def check_destination(path: Path, suffix: str, *, force: bool) -> None:
    """Refuse a destination that cannot be written, before anybody waits for an encoder.

    Args:
        path: The file to be written.
        suffix: What it has to end in.
        force: Whether a file that is there may be replaced.

    Raises:
        UserError: It is a folder, ends otherwise, is there already, or lies where nothing can be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder.", hint=f"Name a file in it: {path / f'encoder{suffix}'}")
    if path.suffix != suffix:
        raise UserError(
            f"{path} does not end in {suffix}, by which programs know the format.", hint=f"Name it {path}{suffix}"
        )
    for each in (path, description_of(path)):
        if each.exists() and not force:
            raise UserError(f"{each} exists already.", hint="Give --force to replace it, or another name.")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{path} cannot be written: {nearest} is a file.", hint="Name a file in a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"{path} cannot be written: no right to write in {nearest}.", hint="Name a file in a folder of yours."
        )


@contextmanager
def whole(path: Path, description: Mapping[str, object]) -> Iterator[Path]:
    """Give a place to write the export to; when that went well, it and its description get their final names.

    Args:
        path: The final name. Missing folders are made; files that are there are replaced.
        description: What the export is; the file's name, size and SHA-256 are added.

    Raises:
        ExportError: Something could not be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder beside the destination: renaming is only within one file system a matter of all or nothing.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
            partial = Path(temporary) / path.name
            yield partial
            file = {"name": path.name, "bytes": partial.stat().st_size, "sha256": sha256(partial)}
            described = description_of(partial)
            described.write_text(json.dumps({"file": file, **description}, indent=2) + "\n", encoding="utf-8")
            described.replace(description_of(path))
            partial.replace(path)
    except OSError as error:
        raise ExportError(
            f"{path} could not be written: {error.strerror or error}.",
            hint="Nothing was left behind; is there space, and may you write there?",
        ) from error
