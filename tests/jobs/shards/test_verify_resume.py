"""Verifying that is stopped goes on where it was, as long as the shards are the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.shards import verify as verifying
from jobs.shards.dataset import open_dataset
from jobs.shards.tar import Scanned, scan_shard
from jobs.shards.verify import Verdict, verify
from jobs.storage import Storage, StoredObject, UnreachableError
from tests.jobs.shards.made import make_shards, shard_members, tar_bytes

_KILLED = """
import os, signal, sys
from pathlib import Path
from jobs.shards import journal, verify

journal._SHARE, verify._threads = 1e9, lambda shards: 1
scan, seen = verify.scan_shard, []

def kill_at_the_fourth(*given):
    seen.append(given)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return scan(*given)

verify.scan_shard = kill_at_the_fourth
verify.verify(sys.argv[1], record=Path(sys.argv[2]))
"""


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Five indexed shards; the second has a sample that cannot be used."""
    paths = make_shards(tmp_path / "data", [2, 3, 4, 5, 1])
    paths[1].write_bytes(tar_bytes([("bad.jpg", b""), *shard_members(2, 3)]))
    open_dataset(str(tmp_path / "data"))
    return paths


@pytest.fixture
def scanned(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are read through, as they are; at the fourth the user presses Ctrl-C, once."""
    seen: list[str] = []
    pressed = []

    def scan(storage: Storage, shard: StoredObject, *rest: object) -> Scanned:
        seen.append(shard.key)
        if len(seen) == 4 and not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return scan_shard(storage, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verifying, "scan_shard", scan)
    monkeypatch.setattr(verifying, "_threads", lambda shards: 1)
    return seen


def check(folder: Path, *, fresh: bool = False) -> Verdict:
    return verify(str(folder / "data"), record=folder / "record", fresh=fresh)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_it_goes_on_with_what_it_had_found_and_ends_with_no_record(
    tmp_path: Path, shards: list[Path], scanned: list[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        check(tmp_path)
    scanned.clear()
    seen: list[tuple[int, int]] = []
    verdict = verify(
        str(tmp_path / "data"), record=tmp_path / "record", progress=lambda done, total: seen.append((done, total))
    )
    # The thread may have been through one more before it heard of the Ctrl-C.
    assert set(scanned) <= set(names(shards[3:]))
    assert verdict.before == 5 - len(scanned) >= 3
    assert verdict.began
    assert [(Path(fault.shard).name, fault.key) for fault in verdict.faults] == [("part-000001.tar", "bad")]
    assert (verdict.shards, verdict.samples) == (5, 15)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in shards)
    assert list((tmp_path / "record").iterdir()) == []
    scanned.clear()
    again = check(tmp_path)
    assert scanned == names(shards)
    assert (again.faults, again.before, again.began) == (verdict.faults, 0, "")


def test_one_that_was_killed_goes_on_too(tmp_path: Path, shards: list[Path], scanned: list[str]) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "data"), str(tmp_path / "record")]
    killed = subprocess.run(command, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert check(tmp_path).before == 3
    assert scanned == names(shards[3:])


@pytest.mark.parametrize("change", ["shard", "index", "record cut", "fresh", "another place"])
def test_what_changed_since_is_read_again(tmp_path: Path, shards: list[Path], scanned: list[str], change: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        check(tmp_path)
    (record,) = (tmp_path / "record").iterdir()
    source, again = tmp_path / "data", shards
    if change == "shard":
        os.utime(shards[1], ns=(1, 1))
        again = [shards[1], *shards[3:]]
    elif change == "index":
        os.utime(shards[1], ns=(1, 1))
        open_dataset(str(source), rebuild=True)
        again = [shards[1], *shards[3:]]
    elif change == "record cut":
        record.write_text(record.read_text()[:100])
    elif change == "another place":
        source = tmp_path / "copy"
        shutil.copytree(tmp_path / "data", source)  # times and all, so the index fits
    scanned.clear()
    verdict = verify(str(source), record=tmp_path / "record", fresh=change == "fresh")
    assert set(scanned) >= set(names(again)) - set(names(shards[3:]))  # one of these may have been done by then
    assert set(scanned) <= set(names(again))
    replaced = [fault.key for fault in verdict.faults if "it was replaced" in fault.reason]
    assert len(replaced) == (change == "shard")
    assert len(verdict.faults) == 1 + len(replaced)


def test_a_shard_that_gave_no_answer_is_the_only_one_that_is_read_again(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    away = {"part-000002.tar"}

    def scan(storage: Storage, shard: StoredObject, *rest: object) -> Scanned:
        seen.append(shard.key)
        if shard.key in away:
            raise UnreachableError("no answer")
        return scan_shard(storage, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verifying, "scan_shard", scan)
    assert any("no answer" in fault.reason for fault in check(tmp_path).faults)
    away.clear()
    seen.clear()
    verdict = check(tmp_path)
    assert seen == ["part-000002.tar"]
    assert [fault.key for fault in verdict.faults] == ["bad"]
    assert verdict.before == 4
    assert list((tmp_path / "record").iterdir()) == []


def test_a_record_that_cannot_be_written_costs_a_warning_and_no_more(
    tmp_path: Path, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "record").write_text("a file where a folder should be")
    assert [fault.key for fault in check(tmp_path).faults] == ["bad"]
    assert len(caplog.records) == 1
    assert "cannot be noted" in caplog.text
