"""Files of embeddings as they were written, whatever the pictures are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.embedding.parts import Manifest, PartsFolder, to_bytes
from jobs.embedding.reading import EmbeddingFile
from jobs.embedding.worker import Part
from jobs.embedding.writing import About, Output, write_output

KEYS = ["plain.png", "line\u2028separator.png", "next\u0085line.png", "form\x0cfeed.png", "carriage\rreturn\r.png"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_names_with_other_ends_of_a_line_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    manifest = Manifest(model="m", preprocessing={}, source="s", pictures=len(KEYS), part=128, batch=128)
    parts = PartsFolder(str(tmp_path / "parts"), manifest)
    features = np.arange(2 * len(KEYS), dtype=np.float32).reshape(-1, 2)
    parts.write(0, to_bytes(Part(KEYS, None, features, [])), [])
    path = tmp_path / f"out{suffix}"
    write_output(Output(str(path)), parts, [0], About("m/1", "0", {}, ["photos"], []))
    file = EmbeddingFile(path)
    assert [file.key(row) for row in range(len(file))] == KEYS
    assert [file.row(key) for key in KEYS] == list(range(len(KEYS)))
