"""Indexing that is stopped goes on where it was, and nobody takes the unfinished for the whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.shards import indexing
from jobs.shards.dataset import open_dataset
from jobs.shards.errors import IndexMismatchError, ShardError
from jobs.shards.tar import Scanned, scan_shard
from jobs.storage import Storage, StoredObject, open_storage
from tests.jobs.shards.made import make_shards, picture, tar_bytes
from tests.s3 import S3Server

_KILLED = """
import os, signal, sys
from jobs.shards import indexing, journal
from jobs.shards.dataset import open_dataset

journal._SHARE, indexing._MOST_THREADS = 1e9, 1
scan, seen = indexing.scan_shard, []

def kill_at_the_fourth(*given):
    seen.append(given)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return scan(*given)

indexing.scan_shard = kill_at_the_fourth
open_dataset(sys.argv[1])
"""


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are read through, as they are; at the fourth the user presses Ctrl-C, once."""
    seen: list[str] = []
    pressed = []

    def scan(storage: Storage, shard: StoredObject, *rest: object) -> Scanned:
        seen.append(shard.key)
        if len(seen) == 4 and not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return scan_shard(storage, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "scan_shard", scan)
    monkeypatch.setattr(indexing, "_MOST_THREADS", 1)
    return seen


@pytest.mark.parametrize("where", ["a folder", "rclone_s3", "moto_s3"])
def test_indexing_that_was_stopped_does_not_read_again_what_it_had(
    tmp_path: Path, scanned: list[str], where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, url = make_shards(tmp_path / "data", [2, 3, 4, 5, 1, 2]), str(tmp_path / "data")
    if where != "a folder":
        s3: S3Server = request.getfixturevalue(where)
        s3.use(monkeypatch)
        url = f"s3://{s3.new_bucket()}/data"
        for path in shards:
            open_storage(url).upload(path.name, path)
    with pytest.raises(KeyboardInterrupt):
        open_dataset(url)
    place = open_storage(f"{url}/index")
    assert place.exists("root.unfinished.json")
    assert not place.exists("root.json")
    scanned.clear()
    seen: list[tuple[int, int]] = []
    dataset = open_dataset(url, progress=lambda done, total: seen.append((done, total)))
    # The thread may have been through one more before it heard of the Ctrl-C.
    assert scanned[0] == shards[3].name
    assert set(scanned) <= {path.name for path in shards[3:]}
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in shards)
    assert not place.exists("root.unfinished.json")
    monkeypatch.setattr(indexing, "scan_shard", scan_shard)
    assert dataset.hash == open_dataset(url, rebuild=True).hash
    assert dataset.counts.tolist() == [2, 3, 4, 5, 1, 2]


def test_indexing_that_was_killed_goes_on_too(tmp_path: Path, scanned: list[str]) -> None:
    shards = make_shards(tmp_path, [2, 3, 4, 5, 1])
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(open_dataset(str(tmp_path))) == 15
    assert scanned == [path.name for path in shards[3:]]


@pytest.mark.parametrize("change", ["shard", "file gone", "journal cut", "journal of another version"])
def test_what_changed_since_is_read_again(tmp_path: Path, scanned: list[str], change: str) -> None:
    shards = make_shards(tmp_path, [2, 3, 4, 5])
    with pytest.raises(KeyboardInterrupt):
        open_dataset(str(tmp_path))
    journal = tmp_path / "index" / "root.unfinished.json"
    again = [shards[1], shards[3]]
    if change == "shard":
        os.utime(shards[1], ns=(1, 1))
    elif change == "file gone":
        (tmp_path / "index" / f"{shards[1].name}.json").unlink()
    elif change == "journal cut":
        journal.write_text(journal.read_text()[:100])
        again = shards
    else:
        journal.write_text(journal.read_text().replace('"version":1', '"version":9'))
        again = shards
    scanned.clear()
    assert len(open_dataset(str(tmp_path))) == 14
    assert scanned == [path.name for path in again]


def test_shards_that_are_still_being_packed_are_refused(tmp_path: Path) -> None:
    make_shards(tmp_path, [2, 3])
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "packing.json").write_text("{}")
    for source in (str(tmp_path), str(tmp_path / "part-000000.tar")):
        with pytest.raises(ShardError, match="are not whole: packing") as caught:
            open_dataset(source, index=str(tmp_path / "elsewhere"))
        assert "goes on where it was" in (caught.value.hint or "")


def test_an_index_with_a_label_that_is_no_class_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [("a.jpg", picture(1)), ("a.cls", str(2**63).encode())]
    open_storage(str(tmp_path)).write("x.tar", tar_bytes(members))
    with monkeypatch.context() as earlier:
        earlier.setattr("jobs.shards.tar.MOST_LABEL", 2**64)
        earlier.setattr("jobs.shards.tar._DIGITS", 100)
        open_dataset(str(tmp_path))
    with pytest.raises(IndexMismatchError, match=f"has the label {2**63} in x.tar") as caught:
        open_dataset(str(tmp_path))
    assert "--rebuild" in (caught.value.hint or "")
    with pytest.raises(ShardError, match=r"x\.tar: a\.cls holds"):
        open_dataset(str(tmp_path), rebuild=True)
