"""Encoders and pictures for the tests of this folder, and the command as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.embedding.made import make_encoder, write_files


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 pictures in two folders: five parts of 128."""
    return write_files(tmp_path_factory.mktemp("photos"), 600)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return kept | {"RECO_HOME": str(tmp_path_factory.mktemp("home")), "OMP_NUM_THREADS": "1"}


class Embed:
    """`python -m jobs.embed` with parts of 128 pictures, unless told otherwise."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def start(self, encoder: Path, pictures: object, out: object, *options: str) -> subprocess.Popen[str]:
        words = [str(encoder), str(pictures), "--out", str(out), "--home", self._environment["RECO_HOME"]]
        command = [sys.executable, "-m", "jobs.embed", *words, "--part-size", "128", *options]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment
        )

    def __call__(self, encoder: Path, pictures: object, out: object, *options: str, code: int = 0) -> tuple[str, str]:
        """What it said on stdout and stderr; fails where the exit code is another than `code`."""
        process = self.start(encoder, pictures, out, *options)
        said, noted = process.communicate(timeout=240)
        assert process.returncode == code, noted
        return said, noted


@pytest.fixture(scope="session")
def embed(environment: dict[str, str]) -> Embed:
    return Embed(environment)
