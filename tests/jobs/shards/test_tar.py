"""Reading a shard through: every sample, or an error that says where the shard is broken."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import google_crc32c
import pytest
import webdataset

from jobs.shards.errors import ShardError
from jobs.shards.records import LeftOut, Sample, from_columns, to_columns
from jobs.shards.tar import Scanned, scan_shard
from jobs.storage import open_storage
from tests.jobs.shards.made import Members, bomb, picture, shard_members, tar_bytes


def scan_all(folder: Path, data: bytes) -> Scanned:
    storage = open_storage(str(folder))
    storage.write("x.tar", data)
    return scan_shard(storage, storage.stat("x.tar"))


def scan(folder: Path, data: bytes) -> list[Sample]:
    samples, left_out = scan_all(folder, data)
    assert left_out == []
    return samples


def test_samples_come_with_place_checksum_size_and_label(tmp_path: Path) -> None:
    data = tar_bytes(shard_members(0, 9, ragged=True))
    samples = scan(tmp_path, data)
    assert [sample.key for sample in samples] == [f"{n:06d}" for n in range(9)]
    assert [sample.label for sample in samples] == [n % 3 for n in range(9)]
    assert [(sample.height, sample.width) for sample in samples] == [(5 + n % 4, 6 + n % 3) for n in range(9)]
    assert [sample.format for sample in samples] == ["jpeg", "png", "webp"] * 3
    for number, sample in enumerate(samples):
        stored = data[sample.offset : sample.offset + sample.length]
        assert stored == shard_members(number, 1, ragged=True)[0][1]
        assert sample.crc32c == google_crc32c.value(stored)
    records = from_columns(to_columns(samples))
    assert len(records) == 9
    assert records.key(4) == "000004"
    assert records.offsets.tolist() == [sample.offset for sample in samples]
    assert records.crc32c.tolist() == [sample.crc32c for sample in samples]


def test_it_finds_what_webdataset_finds(tmp_path: Path) -> None:
    members = [
        *shard_members(0, 6),
        ("deep/er/7.two.jpg", b"no picture: another suffix"),
        ("deep/er/7.jpg", picture(7)),
    ]
    data = tar_bytes(members)
    found = {(s.key, data[s.offset : s.offset + s.length]) for s in scan(tmp_path, data)}
    theirs = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    assert found == {(sample["__key__"], sample["jpg"]) for sample in theirs}


def test_members_may_come_in_any_order_and_others_are_left_alone(tmp_path: Path) -> None:
    members: Members = [
        ("b.cls", b"4\n"),
        ("a.txt", b"a caption"),
        ("a.jpg", picture(1)),
        ("b.JPG", picture(2)),
        ("a.cls", b"3"),
        ("._a.jpg", b"a shadow file"),
        ("__note__", b"webdataset's own"),
        ("c.png", b"a mask, and no real one"),
        ("c.jpg", picture(3)),
    ]
    samples = scan(tmp_path, tar_bytes(members))
    assert [(sample.key, sample.label, sample.format) for sample in samples] == [
        ("b", 4, "jpeg"),
        ("a", 3, "jpeg"),
        ("c", -1, "jpeg"),
    ]


@pytest.mark.parametrize(
    ("document", "label"), [({"label": 5}, 5), ({"label": "dog"}, -1), ({}, -1), ({"label": -2}, -1), ([1], -1)]
)
def test_a_label_in_json_is_a_whole_number_or_none(tmp_path: Path, document: object, label: int) -> None:
    members = [("a.jpg", picture(1)), ("a.json", json.dumps(document).encode())]
    assert [sample.label for sample in scan(tmp_path, tar_bytes(members))] == [label]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.jpg", picture(1)), ("a.jpg", picture(2))], "holds a.jpg twice"),
        ([("a.jpg", picture(1)), ("b.jpg", picture(2)), ("a.jpg", picture(1))], "holds a.jpg twice"),
        ([("a.jpg", b"")], r"no sample that can be used, of 1 \(the first, a: \.jpg: no bytes at all\)"),
        ([("b.cls", b"1"), ("a.jpg", b"<html>")], r"no sample that can be used, of 2 \(the first, b: no picture"),
        ([("a.jpg", picture(1)), ("a.cls", b"cat")], r"a\.cls holds 'cat'"),
        ([("a.jpg", picture(1)), ("a.cls", b"-1")], r"a\.cls holds '-1'"),
        ([("a.jpg", picture(1)), ("a.cls", b"1000000")], r"a\.cls holds '1000000'.* from 0 to 999,999"),
        ([("a.jpg", picture(1)), ("a.cls", str(2**63).encode())], rf"a\.cls holds '{2**63}'"),
        ([("a.jpg", picture(1)), ("a.cls", b"9" * 5000)], r"a\.cls holds '9{40}'"),
        ([("a.jpg", picture(1)), ("a.json", b'{"label": 2000000000}')], r"a\.json has the label 2000000000.* 999,999"),
        ([("a.jpg", picture(1)), ("a.json", b"[" * 100_000)], r"a\.json is no JSON"),
        ([("a.jpg", picture(1)), ("a.json", b"{")], r"a\.json is no JSON"),
        ([], "holds no samples"),
    ],
)
def test_a_sample_that_makes_no_sense_is_named(tmp_path: Path, members: Members, said: str) -> None:
    with pytest.raises(ShardError, match=said) as caught:
        scan(tmp_path, tar_bytes(members))
    assert "x.tar" in str(caught.value)
    assert caught.value.hint


def test_what_cannot_be_used_is_left_out_and_listed(tmp_path: Path) -> None:
    members = [
        ("empty.jpg", b""),
        ("empty.cls", b"1"),
        *shard_members(0, 2),
        ("page.png", b"<html>not found</html>"),
        ("cut.jpg", picture(9)[:30]),
        ("bomb.jpg", bomb("JPEG")),
        ("lone.cls", b"2"),
        ("bomb2.png", bomb("PNG")),
        *shard_members(2, 1),
        ("lone2.txt", b"a caption"),
        ("lone2.cls", b"0"),
    ]
    data = tar_bytes(members)
    samples, left_out = scan_all(tmp_path, data)
    assert [sample.key for sample in samples] == ["000000", "000001", "000002"]
    for number, sample in enumerate(samples):
        assert data[sample.offset : sample.offset + sample.length] == shard_members(number, 1)[0][1]
    assert left_out == [
        LeftOut("empty", ".jpg: no bytes at all"),
        LeftOut("page", ".png: neither JPEG, PNG nor WebP"),
        LeftOut("cut", ".jpg: its header cannot be read"),
        LeftOut("bomb", ".jpg: declares 60000×60000 pixels, more than 178,956,970"),
        LeftOut("lone", "no picture, only .cls"),
        LeftOut("bomb2", ".png: declares 60000×60000 pixels, more than 178,956,970"),
        LeftOut("lone2", "no picture, only .cls, .txt"),
    ]
    assert from_columns(to_columns(samples, left_out)).left_out == tuple(left_out)


def test_a_compressed_shard_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="compressed: its samples cannot be read by range"):
        scan(tmp_path, b"\x1f\x8b" + bytes(1000))


def body() -> bytes:
    """Three samples, 512 bytes of header each before picture (one or more blocks) and label (one block)."""
    return tar_bytes(shard_members(0, 3)).rstrip(b"\0")


def places() -> list[int]:
    """Where each member's header begins."""
    file = io.BytesIO(tar_bytes(shard_members(0, 3)))
    with tarfile.open(fileobj=file) as tar:
        return [entry.offset for entry in tar]


@pytest.mark.parametrize("member", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("into", [0, 100, 512, 513])
def test_a_cut_is_noticed_wherever_it_falls(tmp_path: Path, member: int, into: int) -> None:
    cut = places()[member] + into
    with pytest.raises(ShardError, match=r"(is cut|no readable tar).* at offset \d+") as caught:
        scan(tmp_path, tar_bytes(shard_members(0, 3))[:cut])
    assert "x.tar" in str(caught.value)


def test_a_cut_before_the_end_marks_is_noticed(tmp_path: Path) -> None:
    data = body()
    whole = data + bytes(-len(data) % 512)
    with pytest.raises(ShardError, match=f"is cut at offset {len(whole)}: the end of the archive is missing"):
        scan(tmp_path, whole)
    assert len(scan(tmp_path, whole + bytes(512))) == 3  # some writers leave one block of zeros only
    assert len(scan(tmp_path, whole + bytes(20 * 512))) == 3


@pytest.mark.parametrize("damage", [bytes(512), b"\xff" * 512])
def test_a_damaged_header_is_noticed(tmp_path: Path, damage: bytes) -> None:
    data, place = tar_bytes(shard_members(0, 3)), places()[2]
    with pytest.raises(ShardError, match=f"damaged at offset {place}"):
        scan(tmp_path, data[:place] + damage + data[place + 512 :])


def test_a_file_that_is_no_tar_is_named(tmp_path: Path) -> None:
    for data in (b"", b"hello", b"x" * 2000):
        with pytest.raises(ShardError, match=r"x\.tar"):
            scan(tmp_path, data)
