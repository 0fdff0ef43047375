"""The disk cache among processes that share it, that are killed, and on disks that are full or cannot be written."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobs.storage import Storage, cached
from jobs.storage.cache_folder import CacheFolder
from jobs.storage.s3 import S3Storage
from tests.jobs.storage.faulty import DATA, FaultyServer

pytestmark = pytest.mark.timeout(120)

LIMIT = 100 << 20
READER = """
import sys
from pathlib import Path
from jobs.storage import cached, open_storage

storage = cached(open_storage("s3://bucket"), Path(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for key in sys.argv[3:]:
    sys.stdout.buffer.write(storage.read_range(key, 100, 2_000_100, etag="one"))
"""


def start_reader(folder: Path, *keys: str) -> subprocess.Popen[bytes]:
    """A process that reads these keys through the cache once it gets a line."""
    command = [sys.executable, "-c", READER, str(folder), str(LIMIT), *keys]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdout
    assert reader.stdout.readline() == b"ready\n"
    return reader


def make(folder: Path) -> Storage:
    return cached(S3Storage("bucket"), folder, LIMIT)


def check(storage: Storage, key: str = "x") -> None:
    assert storage.read_range(key, 100, 2_000_100, etag="one") == DATA[100:2_000_100]


def kept(folder: Path, ending: str = "") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending) and path.name != "lock")


def test_processes_share_one_download(faulty: FaultyServer, tmp_path: Path) -> None:
    readers = [start_reader(tmp_path / "cache", "x", "y") for _ in range(3)]
    for reader in readers:
        assert reader.stdin
        reader.stdin.write(b"go\n")
        reader.stdin.flush()
    for reader in readers:
        read, _ = reader.communicate(timeout=60)
        assert read == DATA[100:2_000_100] * 2
    assert faulty.ranges == [(0, len(DATA))] * 2
    assert len(kept(tmp_path / "cache")) == 2


@pytest.mark.parametrize("then", ["x", "y"])
def test_a_killed_download_is_cleared_away_and_done_by_the_next(
    faulty: FaultyServer, tmp_path: Path, then: str
) -> None:
    folder = tmp_path / "cache"
    faulty.faults = ["stall"]
    reader = start_reader(folder, "x")
    assert reader.stdin
    reader.stdin.write(b"go\n")
    reader.stdin.flush()
    while not faulty.ranges:
        time.sleep(0.01)
    reader.kill()
    reader.communicate()
    assert len(kept(folder, ".part")) == 1
    check(make(folder), then)
    assert [path.suffix for path in kept(folder)] == [".whole"]
    check(make(folder), then)
    assert len(faulty.ranges) == 2


def test_who_waited_for_a_killed_download_reads_on(faulty: FaultyServer, tmp_path: Path) -> None:
    faulty.faults = ["stall"]
    folder = tmp_path / "cache"
    first, second = start_reader(folder, "x"), start_reader(folder, "x")
    for reader in (first, second):
        assert reader.stdin
        reader.stdin.write(b"go\n")
        reader.stdin.flush()
        while not faulty.ranges:
            time.sleep(0.01)
    first.kill()
    first.communicate()
    assert second.communicate(timeout=60)[0] == DATA[100:2_000_100]


def test_who_asks_just_after_a_download_has_ended_does_not_begin_another(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, LIMIT)
    with folder.claim("name") as part:
        assert part
        assert part.reserve(10)
        part.append(memoryview(b"0123456789"))
        part.publish()
    with folder.claim("name") as part:
        assert part is None
    assert [path.name for path in kept(tmp_path)] == ["name.whole"]


def test_the_end_of_a_download_leaves_the_next_one_of_the_same_object_alone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, LIMIT)
    with ExitStack() as second:
        with folder.claim("name") as part:
            assert part
            part.publish()
            folder.forget("name")
            following = second.enter_context(folder.claim("name"))
        assert following
        following.publish()
    assert [path.name for path in kept(tmp_path)] == ["name.whole"]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory with the options given; again with others."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount the small file system that this test needs")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        ran = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            pytest.skip(f"this machine does not let root mount a tmpfs: {ran.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_a_full_disk_is_said_once_and_read_past(
    faulty: FaultyServer, mount: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = mount("size=1m")
    storage = make(folder)
    for key in ("x", "y", "x"):
        check(storage, key)
    (said,) = warnings_of(caplog)
    assert "No space left" in said
    assert kept(folder) == []


def test_a_disk_that_can_only_be_read_still_serves_what_it_has(
    faulty: FaultyServer, mount: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = mount("size=16m")
    check(make(folder))
    mount("remount,ro")
    storage = make(folder)
    check(storage)
    assert len(faulty.ranges) == 1
    assert warnings_of(caplog) == []
    for _ in range(2):
        check(storage, "y")
    assert len(faulty.ranges) == 3
    assert len(warnings_of(caplog)) == 1


def test_a_bad_copy_that_cannot_be_removed_is_not_used(faulty: FaultyServer, mount: Callable[[str], Path]) -> None:
    folder = mount("size=16m")
    storage = make(folder)
    check(storage)
    (path,) = kept(folder)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # unseen, as a disk does it
    mount("remount,ro")
    with pytest.raises(AssertionError):
        check(storage)
    storage.forget("x")
    check(storage)
    assert path.exists()
    assert len(faulty.ranges) == 2
