"""Packing that was stopped, killed or failed goes on with the missing shards; its half is never taken for the whole."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.shards.dataset import open_dataset
from jobs.shards.errors import ShardError
from jobs.shards.pack import pack
from jobs.shards.unfinished import Unfinished
from jobs.storage import StorageError, open_storage
from jobs.storage.s3 import S3Storage
from tests.jobs.shards.made import picture
from tests.s3 import S3Server

_KILLED = """
import os, signal, sys
from jobs.shards import journal
from jobs.shards.pack import pack

journal._SHARE = 1e9

def kill(what, done, total):
    if done == 13:
        os.kill(os.getpid(), signal.SIGKILL)

pack(sys.argv[1], sys.argv[2], shard_bytes=10**6, shard_samples=2, report=kill)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of two classes."""
    for number in range(20):
        place = tmp_path / "photos" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02d}.jpg").write_bytes(picture(number))
    return tmp_path / "photos"


@pytest.fixture(params=["a folder", "rclone_s3", "moto_s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Somewhere to pack to."""
    if request.param == "a folder":
        return str(tmp_path / "out")
    s3: S3Server = request.getfixturevalue(request.param)
    s3.use(monkeypatch)
    return f"s3://{s3.new_bucket()}/sets/out"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the pictures that are read."""
    from jobs.shards.pictures import Files

    numbers: list[int] = []
    real = Files.read

    def note(files: Files, number: int) -> bytes:
        numbers.append(number)
        return real(files, number)

    monkeypatch.setattr(Files, "read", note)
    return numbers


def stop_at(place: int):
    def stop(what: str, done: int, total: int) -> None:
        if done == place:
            raise KeyboardInterrupt

    return stop


def half_of(out: str, tmp_path: Path) -> str:
    """Where the unfinished lies."""
    return out if out.startswith("s3://") else str(tmp_path / ".out.packing" / "shards")


def keys(url: str) -> list[str]:
    return [item.key for item in open_storage(url).list()]


@pytest.mark.parametrize("fractions", [None, {"train": 0.5, "test": 0.5}])
def test_what_was_stopped_goes_on_and_ends_with_the_same_shards(
    photos: Path, out: str, tmp_path: Path, read: list[int], fractions: dict[str, float] | None
) -> None:
    given = {"shard_bytes": 10**6, "shard_samples": 2, "fractions": fractions, "seed": 3}
    whole = pack(str(photos), str(tmp_path / "whole"), **given)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), out, report=stop_at(15), **given)  # type: ignore[arg-type]
    half = half_of(out, tmp_path)
    assert any(key.endswith("index/packing.json") for key in keys(half))
    assert not any(key.endswith("root.json") for key in keys(half))
    read.clear()
    packing = pack(str(photos), out, **given)  # type: ignore[arg-type]
    assert len(read) <= 8  # of twenty; fourteen lay there in seven whole shards, of which the last may be packed again
    assert {name: part.hash for name, part in packing.parts.items()} == {
        name: part.hash for name, part in whole.parts.items()
    }
    assert keys(out) == keys(str(tmp_path / "whole"))
    for key in keys(out):
        if key.endswith((".tar", "classes.json", ".tar.json")):
            assert open_storage(out).read(key) == (tmp_path / "whole" / key).read_bytes()
    for name in packing.parts:
        dataset = open_dataset(f"{out}/{name}" if name else out)
        assert len(dataset.read(range(len(dataset)))) == packing.parts[name].samples
    assert not (tmp_path / ".out.packing").exists()


def test_what_was_killed_goes_on_too(photos: Path, out: str, tmp_path: Path, read: list[int]) -> None:
    command = [sys.executable, "-c", _KILLED, str(photos), out]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    half = half_of(out, tmp_path)
    shards = [key for key in keys(half) if key.endswith(".tar")]
    assert shards
    with pytest.raises(ShardError, match="not whole"):
        open_dataset(half)
    packing = pack(str(photos), out, shard_bytes=10**6, shard_samples=2)
    assert len(read) <= 20 - 2 * (len(shards) - 3)
    whole = pack(str(photos), str(tmp_path / "whole"), shard_bytes=10**6, shard_samples=2)
    assert packing.parts[""].hash == whole.parts[""].hash == open_dataset(out).hash


def test_a_shard_that_was_damaged_meanwhile_is_packed_again(photos: Path, out: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), out, shard_bytes=10**6, shard_samples=2, report=stop_at(15))
    open_storage(half_of(out, tmp_path)).write("shard-000001.tar", b"something else")
    packing = pack(str(photos), out, shard_bytes=10**6, shard_samples=2)
    whole = pack(str(photos), str(tmp_path / "whole"), shard_bytes=10**6, shard_samples=2)
    assert packing.parts[""].hash == whole.parts[""].hash == open_dataset(out).hash


def test_something_else_is_not_mixed_into_what_is_unfinished(photos: Path, out: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), out, shard_bytes=10**6, shard_samples=2, report=stop_at(15))
    before = keys(half_of(out, tmp_path))
    for given, which in (({"seed": 1}, "seed"), ({"shard_samples": 3}, "shard-samples")):
        with pytest.raises(UserError, match=f"unfinished packing with another {which}") as caught:
            pack(str(photos), out, **{"shard_bytes": 10**6, "shard_samples": 2, **given})
        assert "--overwrite" in (caught.value.hint or "")
    (photos / "cat" / "new.jpg").write_bytes(picture(50))
    with pytest.raises(UserError, match="unfinished packing with another pictures"):
        pack(str(photos), out, shard_bytes=10**6, shard_samples=2)
    assert keys(half_of(out, tmp_path)) == before
    packing = pack(str(photos), out, shard_bytes=10**6, shard_samples=30, overwrite=True)
    assert (packing.parts[""].samples, packing.parts[""].shards) == (21, 1)
    assert [key for key in keys(out) if key.endswith(".tar")] == ["shard-000000.tar"]
    assert not (tmp_path / ".out.packing").exists()


def test_another_split_is_something_else(photos: Path, out: str, tmp_path: Path) -> None:
    given = {"shard_bytes": 10**6, "shard_samples": 2}
    halves = {"train": 0.5, "test": 0.5}
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), out, fractions=halves, report=stop_at(9), **given)  # type: ignore[arg-type]
    for other in (None, {"train": 0.4, "test": 0.6}, {"a": 0.5, "b": 0.5}):
        with pytest.raises(UserError, match="unfinished packing with another split"):
            pack(str(photos), out, fractions=other, **given)  # type: ignore[arg-type]
    packing = pack(str(photos), out, fractions=halves, **given)  # type: ignore[arg-type]
    assert {name: part.samples for name, part in packing.parts.items()} == {"train": 10, "test": 10}


def test_a_part_that_was_whole_stays_so_when_the_end_was_cut_off(
    photos: Path, out: str, tmp_path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"shard_bytes": 10**6, "shard_samples": 2, "fractions": {"train": 0.5, "test": 0.5}}
    removed, real = [], Unfinished.remove

    def stop_after_the_first(record: Unfinished) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(record)
        real(record)

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "remove", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            pack(str(photos), out, **given)  # type: ignore[arg-type]
    read.clear()
    packing = pack(str(photos), out, **given)  # type: ignore[arg-type]
    assert read == []
    for name, part in packing.parts.items():
        assert open_dataset(f"{out}/{name}").hash == part.hash
        assert part.samples == 10
    assert not any(key.endswith("packing.json") for key in keys(out))


def test_an_upload_that_fails_keeps_what_arrived(
    photos: Path, rclone_s3: S3Server, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/photos"
    real, done = S3Storage.upload, []

    def fail(storage: S3Storage, key: str, path: Path) -> None:
        if key == "shard-000003.tar":
            raise StorageError("the quota is used up")
        done.append(key)
        real(storage, key, path)

    with monkeypatch.context() as patched:
        patched.setattr(S3Storage, "upload", fail)
        with pytest.raises(StorageError, match="quota"):
            pack(str(photos), url, shard_bytes=10**6, shard_samples=2)
    assert [key for key in keys(url) if key.endswith(".tar")] == sorted(done)
    read.clear()
    assert pack(str(photos), url, shard_bytes=10**6, shard_samples=2).parts[""].shards == 10
    assert len(read) == 14


@pytest.mark.parametrize("failing", ["shard-000000.tar", "shard-000003.tar", "shard-000009.tar"])
def test_a_shard_that_failed_while_later_ones_arrived_is_not_forgotten(
    photos: Path, tmp_path: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/photos"
    real, later = S3Storage.upload, threading.Event()

    def fail(storage: S3Storage, key: str, path: Path) -> None:
        if key == failing:
            later.wait(5)
            raise StorageError("the quota is used up")
        real(storage, key, path)
        if key > failing:
            later.set()

    with monkeypatch.context() as patched:
        patched.setattr(S3Storage, "upload", fail)
        if failing == "shard-000009.tar":
            later.set()
        with pytest.raises(StorageError, match="quota"):
            pack(str(photos), url, shard_bytes=10**6, shard_samples=2)
    packing = pack(str(photos), url, shard_bytes=10**6, shard_samples=2)
    whole = pack(str(photos), str(tmp_path / "whole"), shard_bytes=10**6, shard_samples=2)
    assert packing.parts[""].hash == whole.parts[""].hash
    assert packing.parts[""].samples == 20


def test_an_old_data_set_in_s3_is_no_more_from_the_moment_it_is_replaced(
    photos: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/photos"
    pack(str(photos), url, shard_bytes=10**6, shard_samples=4)
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), url, shard_bytes=10**6, shard_samples=2, overwrite=True, report=stop_at(15))
    with pytest.raises(ShardError, match="not whole"):
        open_dataset(url)
    assert pack(str(photos), url, shard_bytes=10**6, shard_samples=2).parts[""].shards == 10


def test_a_mistake_leaves_no_trace_in_s3(photos: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/photos"
    with pytest.raises(KeyboardInterrupt):
        pack(str(photos), url, shard_bytes=10**6, report=stop_at(1))
    assert keys(url) == []


def test_local_disk_holds_a_few_shards_only(photos: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    url = f"s3://{rclone_s3.new_bucket()}/photos"
    real, seen = S3Storage.upload, []

    def count(storage: S3Storage, key: str, path: Path) -> None:
        seen.append(len(list(path.parent.iterdir())))
        real(storage, key, path)

    monkeypatch.setattr(S3Storage, "upload", count)
    assert pack(str(photos), url, shard_bytes=10**6, shard_samples=1).parts[""].shards == 20
    assert len(seen) == 20
    assert max(seen) <= 3


def test_two_at_once_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.packing").mkdir()
    with (tmp_path / ".out.packing" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process is packing"):
            pack(str(photos), str(tmp_path / "out"), shard_bytes=10**6)
    assert pack(str(photos), str(tmp_path / "out"), shard_bytes=10**6).parts[""].samples == 20
