"""The disk cache: what is asked of the origin, what is kept, and that trouble on the disk never reaches the reader."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.storage import AccessDeniedError, ObjectChangedError, Storage, StorageError, cached
from jobs.storage.retry import Patience
from jobs.storage.s3 import S3Storage
from tests.jobs.storage.faulty import DATA, FaultyServer

pytestmark = pytest.mark.timeout(120)

ROOM = 2 * len(DATA) + 1000  # for two objects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def storage(faulty: FaultyServer, folder: Path) -> Storage:
    return make(folder)


def make(folder: Path, limit: int = ROOM) -> Storage:
    return cached(S3Storage("bucket", reading=Patience(60.0, base=0.001, cap=0.002)), folder, limit)


def check(storage: Storage, key: str = "x", start: int = 1000, stop: int = 2_000_000) -> None:
    assert storage.read_range(key, start, stop, etag="one") == DATA[start:stop]


def kept(folder: Path, ending: str = "") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending) and path.name != "lock")


def test_an_object_is_downloaded_once_and_whole(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    check(storage)
    assert faulty.ranges == [(0, len(DATA))]
    check(storage, start=0, stop=1)
    check(storage, start=len(DATA) - 1, stop=len(DATA))
    for other in (make(folder), pickle.loads(pickle.dumps(storage))):
        check(other)
    assert len(faulty.ranges) == 1
    check(storage, "y")
    assert len(faulty.ranges) == 2


def test_only_ranges_of_a_known_version_are_kept(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    assert storage.read("x") == DATA
    assert storage.read_range("x", 5, 10) == DATA[5:10]
    storage.download("x", folder.parent / "copy")
    assert storage.read_range("x", 5, 5, etag="one") == b""
    assert not folder.exists()


def test_another_version_is_another_object(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    check(storage)
    faulty.always = "other version"
    assert storage.read_range("x", 5, 10, etag="two") == DATA[5:10]
    assert storage.read_range("x", 5, 10, etag="one") == DATA[5:10]
    with pytest.raises(ObjectChangedError):
        storage.read_range("x", 5, 10, etag="three")
    assert len(kept(folder)) == 2


def test_a_range_beyond_the_end_is_an_error_and_never_short(faulty: FaultyServer, folder: Path) -> None:
    check(make(folder))
    impatient = cached(S3Storage("bucket", reading=Patience(0.0)), folder, ROOM)
    check(impatient)
    with pytest.raises(StorageError):
        impatient.read_range("x", len(DATA) - 5, len(DATA) + 5, etag="one")


def test_threads_that_want_the_same_object_share_one_download(faulty: FaultyServer, storage: Storage) -> None:
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(check, storage, start=n, stop=n + 1000) for n in range(16)]:
            done.result()
    assert faulty.ranges == [(0, len(DATA))]


def test_what_was_used_longest_ago_makes_room(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    for key in ("a", "b", "a", "c"):
        check(storage, key)
    assert len(kept(folder)) == 2
    assert sum(path.stat().st_size for path in folder.iterdir()) <= ROOM
    assert len(faulty.ranges) == 3
    check(storage, "a")
    check(storage, "c")
    assert len(faulty.ranges) == 3
    check(storage, "b")
    assert len(faulty.ranges) == 4


def test_what_makes_room_while_it_is_read_is_read_whole(
    faulty: FaultyServer, folder: Path, between_pieces: list[Callable[[], object]]
) -> None:
    storage = make(folder, len(DATA) + 100)
    check(storage, "a")
    between_pieces.append(lambda: check(make(folder, len(DATA) + 100), "b"))
    check(storage, "a")
    assert between_pieces == []
    assert len(faulty.ranges) == 2
    assert len(kept(folder)) == 1
    check(storage, "b")
    assert len(faulty.ranges) == 2


def test_an_object_above_the_limit_is_read_straight(
    faulty: FaultyServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = make(folder, len(DATA) - 1)
    for start in (0, 10, 20):
        check(storage, start=start, stop=start + 10)
    assert faulty.ranges == [(0, 10), (10, 20), (20, 30)]
    assert faulty.questions == 1
    assert kept(folder) == []
    assert [record.levelno for record in caplog.records if "cache" in record.message] == [logging.WARNING]


def test_a_folder_that_cannot_be_made_is_said_once_and_read_past(
    faulty: FaultyServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("not a folder")
    storage = make(folder)
    for start in (0, 10, 20):
        check(storage, start=start, stop=start + 10)
    assert faulty.ranges == [(0, 10), (10, 20), (20, 30)]
    assert len([record for record in caplog.records if "cache" in record.message]) == 1


def test_a_fault_in_the_download_is_met_as_in_any_read(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    faulty.faults = ["truncated", "503", "reset"]
    check(storage)
    assert len(kept(folder)) == 1


def test_a_download_that_fails_leaves_nothing(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    faulty.faults = ["truncated", "403"]
    with pytest.raises(AccessDeniedError):
        storage.read_range("x", 0, 10, etag="one")
    assert kept(folder) == []
    check(storage)


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "cut to nothing", "not ours"])
def test_a_damaged_file_is_noticed_when_a_process_first_opens_it(
    faulty: FaultyServer, storage: Storage, folder: Path, damage: str
) -> None:
    check(storage)
    (path,) = kept(folder)
    if damage == "flipped bit":
        flip_a_bit(path, 2_400_000)
    elif damage == "not ours":
        path.write_bytes(os.urandom(path.stat().st_size))
    else:
        os.truncate(path, 0 if damage == "cut to nothing" else 1_000_000)
    check(make(folder))
    assert len(faulty.ranges) == 2
    check(storage)
    check(make(folder))
    assert len(faulty.ranges) == 2


def test_a_file_cut_in_mid_run_is_noticed(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    check(storage)
    os.truncate(kept(folder)[0], 1_000_000)
    check(storage)


def test_forget_fetches_anew_what_went_bad_unseen(faulty: FaultyServer, storage: Storage, folder: Path) -> None:
    check(storage)
    check(storage, "y")
    for path in kept(folder):
        before = path.stat()
        flip_a_bit(path, 0)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk does it
    assert storage.read_range("x", 0, 10, etag="one") != DATA[:10]
    storage.forget("x")
    assert storage.read_range("x", 0, 10, etag="one") == DATA[:10]
    assert storage.read_range("y", 0, 10, etag="one") != DATA[:10]
    assert len(faulty.ranges) == 3


def flip_a_bit(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
