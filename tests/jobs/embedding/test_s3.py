"""Pictures, parts and output in S3: the vectors are those of the same pictures on disk."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.embedding.reading import open_embeddings
from jobs.storage import open_storage
from tests.jobs.embedding.conftest import Embed
from tests.jobs.embedding.made import write_files
from tests.s3 import S3Server


def test_an_output_in_s3_is_the_file_that_would_lie_on_disk(
    embed: Embed,
    environment: dict[str, str],
    encoder: Path,
    moto_s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = write_files(tmp_path / "photos", 150)
    moto_s3.use(monkeypatch)
    storage = open_storage(f"s3://{moto_s3.new_bucket()}")
    for path in photos.rglob("*.png"):
        storage.upload(f"photos/{path.relative_to(photos)}", path)
    local, out = tmp_path / "local.parquet", f"{storage.url}/out/remote.parquet"
    embed(encoder, photos, local)
    Embed(environment | moto_s3.environment)(encoder, f"{storage.url}/photos", out)
    assert [item.key for item in storage.list("out/")] == ["out/remote.parquet"]
    (tmp_path / "copy").mkdir()
    file = open_embeddings(out, tmp_path / "copy")
    assert pq.read_table(file.path).equals(pq.read_table(local))
    assert file.about is not None
    assert file.about.source == [f"{storage.url}/photos"]
    assert file.about.classes == ["columns", "rows"]
