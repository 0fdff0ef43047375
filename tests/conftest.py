"""Fixtures that several parts' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two threads beside one busy process can be far slower than one, and tests share the cores with servers and with Ray.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.s3 import S3Server, serve_moto, serve_rclone


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3` over an empty folder, with keys."""
    with serve_rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[S3Server]:
    """Moto's S3 server."""
    with serve_moto() as server:
        yield server


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference pictures that RECO_REFERENCE_DATA names; the test is skipped where there is none."""
    given = os.environ.get("RECO_REFERENCE_DATA")
    if not given:
        pytest.skip("RECO_REFERENCE_DATA is not set: it names the folder with the reference shards")
    folder = Path(given)
    if not folder.is_dir():
        pytest.skip(f"RECO_REFERENCE_DATA={given} is not a folder")
    return folder
