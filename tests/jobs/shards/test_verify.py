"""Verifying names every bad sample and shard, and goes on past each of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.shards.dataset import open_dataset
from jobs.shards.errors import IndexMismatchError, SourceError
from jobs.shards.verify import Fault, verify
from jobs.storage import UnreachableError, open_storage
from jobs.storage.local import LocalStorage
from tests.jobs.shards.made import make_shards, picture, shard_members, tar_bytes
from tests.s3 import S3Server


def rewrite(path: Path, data: bytes) -> None:
    """Change bytes the way bad disks do: size and time stay."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Four indexed shards of five samples each; the second has two more that cannot be used."""
    paths = make_shards(tmp_path / "data", [5, 5, 5, 5], ragged=True)
    members = [("bad.jpg", b""), *shard_members(5, 5, ragged=True), ("lone.cls", b"1")]
    paths[1].write_bytes(tar_bytes(members))
    open_dataset(str(tmp_path / "data"))
    return paths


LEFT_OUT = [
    ("part-000001.tar", "bad", "left out of the index: .jpg: no bytes at all"),
    ("part-000001.tar", "lone", "left out of the index: no picture, only .cls"),
]


def faults_of(folder: Path) -> list[tuple[str, str, str]]:
    return [(Path(fault.shard).name, fault.key, fault.reason) for fault in verify(str(folder)).faults]


def place_of(path: Path, number: int) -> int:
    """Where in the whole data set's shard a sample's picture begins."""
    dataset = open_dataset(str(path.parent))
    return int(dataset.records(int(path.stem[-6:])).offsets[number])


def test_intact_shards_are_clean_and_every_byte_is_read(tmp_path: Path) -> None:
    paths = make_shards(tmp_path, [5, 3], ragged=True)
    open_dataset(str(tmp_path))
    seen: list[tuple[int, int]] = []
    verdict = verify(str(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert verdict.faults == []
    assert (verdict.shards, verdict.samples) == (2, 8)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in paths)


def test_every_bad_sample_is_named_with_the_reason(tmp_path: Path, shards: list[Path]) -> None:
    flipped = bytearray(shards[0].read_bytes())
    flipped[place_of(shards[0], 1) + 60] ^= 4
    zeroed = bytearray(shards[3].read_bytes())
    zeroed[place_of(shards[3], 2) : place_of(shards[3], 2) + 64] = bytes(64)
    zeroed[place_of(shards[3], 4) + 3] ^= 1
    rewrite(shards[0], bytes(flipped))
    rewrite(shards[3], bytes(zeroed))
    assert faults_of(tmp_path / "data") == [
        ("part-000000.tar", "000001", "its bytes are not those that were indexed"),
        *LEFT_OUT,
        ("part-000003.tar", "000017", "its bytes are not those that were indexed"),
        ("part-000003.tar", "000019", "its bytes are not those that were indexed"),
    ]


def test_a_picture_that_was_packed_damaged_is_found_by_decoding_it(tmp_path: Path) -> None:
    cut = picture(1, height=64, width=64)[:900]
    open_storage(str(tmp_path)).write("x.tar", tar_bytes([*shard_members(0, 2), ("cut.jpg", cut), ("cut.cls", b"1")]))
    assert len(open_dataset(str(tmp_path))) == 3  # its header is fine
    ((shard, key, reason),) = faults_of(tmp_path)
    assert (shard, key) == ("x.tar", "cut")
    assert reason.startswith("cannot be decoded (image file is truncated")


def test_a_cut_shard_is_named_with_what_it_lost_and_the_others_are_checked(tmp_path: Path, shards: list[Path]) -> None:
    whole = shards[2].read_bytes()
    cut = place_of(shards[2], 3) + 20
    flipped = bytearray(shards[3].read_bytes())
    flipped[place_of(shards[3], 0) + 60] ^= 4
    shards[2].write_bytes(whole[:cut])
    rewrite(shards[3], bytes(flipped))
    assert faults_of(tmp_path / "data") == [
        *LEFT_OUT,
        ("part-000002.tar", "", f"it has {cut:,} bytes, and had {len(whole):,} when it was indexed"),
        ("part-000002.tar", "", f"is cut in 000013.png, at offset {cut - 20}"),
        ("part-000002.tar", "000013", "the shard ends before it does"),
        ("part-000002.tar", "000014", "the shard ends before it does"),
        ("part-000003.tar", "000015", "its bytes are not those that were indexed"),
    ]


def test_a_damaged_header_hides_nothing_behind_it(tmp_path: Path, shards: list[Path]) -> None:
    data = bytearray(shards[0].read_bytes())
    header = place_of(shards[0], 1) - 512
    data[header : header + 512] = bytes(512)
    data[place_of(shards[0], 3) + 30] ^= 1
    rewrite(shards[0], bytes(data))
    assert faults_of(tmp_path / "data") == [
        ("part-000000.tar", "", f"is damaged at offset {header}: no header, and yet not its end"),
        ("part-000000.tar", "000003", "its bytes are not those that were indexed"),
        *LEFT_OUT,
    ]


def test_replaced_missing_and_unknown_shards_are_named(tmp_path: Path, shards: list[Path]) -> None:
    members = shard_members(0, 5, ragged=True)
    members[1] = (members[1][0], b"2")  # another label, and the same size
    os.utime(shards[0], ns=(1, 1))
    shards[0].write_bytes(tar_bytes(members))
    shards[2].unlink()
    (tmp_path / "data" / "part-000004.tar").write_bytes(tar_bytes(shard_members(20, 1)))
    assert faults_of(tmp_path / "data") == [
        ("part-000000.tar", "", "it was replaced since it was indexed (the same size, another tag)"),
        ("part-000000.tar", "000000", "its label is 2, and was 0 when it was indexed"),
        *LEFT_OUT,
        ("part-000002.tar", "", "it is in the index, and not there"),
        ("part-000004.tar", "", "it is not in the index"),
    ]


def test_a_shard_with_a_damaged_index_file_or_no_answer_does_not_stop_the_rest(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "data" / "index" / "part-000000.tar.json"
    file.write_text(file.read_text().replace('"labels":[0', '"labels":[1'))
    real = LocalStorage.read_into

    def read(storage: LocalStorage, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        if key == "part-000003.tar":
            raise UnreachableError("no answer")
        real(storage, key, start, buffer, etag=etag)

    monkeypatch.setattr(LocalStorage, "read_into", read)
    found = faults_of(tmp_path / "data")
    assert [(shard, key) for shard, key, _ in found if shard != "part-000001.tar"] == [
        ("part-000000.tar", ""),
        ("part-000003.tar", ""),
    ]
    assert "not what its root promises" in found[0][2]
    assert "no answer" in found[-1][2]


def test_bytes_that_were_wrong_on_the_way_only_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, [3])
    open_dataset(str(tmp_path))
    real, reads = LocalStorage.read_into, []

    def flip(storage: LocalStorage, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        real(storage, key, start, buffer, etag=etag)
        if key.endswith(".tar"):
            reads.append(start)
            if len(reads) == 1:
                buffer[512 + 60] ^= 1

    monkeypatch.setattr(LocalStorage, "read_into", flip)
    assert verify(str(tmp_path)).faults == []
    assert len(reads) == 2


def test_without_an_index_or_with_a_damaged_one_it_says_what_to_do(tmp_path: Path) -> None:
    make_shards(tmp_path, [3])
    with pytest.raises(SourceError, match="no index") as caught:
        verify(str(tmp_path))
    assert "reco data index" in (caught.value.hint or "")
    open_dataset(str(tmp_path))
    (tmp_path / "index" / "root.json").write_text("{")
    with pytest.raises(IndexMismatchError):
        verify(str(tmp_path))


@pytest.mark.parametrize("server", ["rclone_s3", "moto_s3"])
def test_shards_in_s3_are_verified_the_same_way(
    tmp_path: Path, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3: S3Server = request.getfixturevalue(server)
    s3.use(monkeypatch)
    url = f"s3://{s3.new_bucket()}/data"
    storage = open_storage(url)
    for path in make_shards(tmp_path, [4, 4]):
        storage.upload(path.name, path)
    dataset = open_dataset(url, index=str(tmp_path / "kept"))
    assert verify(url, index=str(tmp_path / "kept")).faults == []
    data = bytearray(storage.read("part-000001.tar"))
    data[int(dataset.records(1).offsets[2]) + 50] ^= 1
    storage.write("part-000001.tar", bytes(data))
    shard = f"{url}/part-000001.tar"
    assert verify(url, index=str(tmp_path / "kept")).faults == [
        Fault(shard, "", "it was replaced since it was indexed (the same size, another tag)"),
        Fault(shard, "000006", "its bytes are not those that were indexed"),
    ]
