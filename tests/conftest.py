"""Fixtures that several parts' tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two threads beside one busy process can be far slower than one, and tests share the cores with servers and with Ray.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jobs.tracking.server import stop_server
from tests.s3 import S3Server, serve_moto, serve_rclone

_ASK_FOR_A_SERVER = """
import sys
from pathlib import Path
from jobs.tracking.server import tracking_uri
print(tracking_uri(Path(sys.argv[1])))
"""


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


@pytest.fixture(scope="session")
def tracking_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    stop_server(home)


@pytest.fixture(scope="session")
def addresses(tracking_home: Path) -> list[str]:
    """What two processes get that ask for the server of one folder at the same moment."""
    command = [sys.executable, "-c", _ASK_FOR_A_SERVER, str(tracking_home)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    return [process.communicate(timeout=200)[0].strip() for process in processes]


@pytest.fixture(scope="session")
def uri(addresses: list[str]) -> str:
    return addresses[0]
