"""Shards with faults are found out in S3 as they are in a folder: the same samples, the same words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.shards.dataset import open_dataset
from jobs.shards.errors import ShardError
from jobs.shards.verify import verify
from jobs.storage import open_storage
from tests.jobs.shards.made import bomb, picture, shard_members, tar_bytes
from tests.s3 import S3Server

GOOD = shard_members(0, 4)
WHOLE = tar_bytes(GOOD)
HEADER = WHOLE.index(b"000002.jpg")
TOO_MANY = "declares 60000×60000 pixels, more than 178,956,970"
FAULTS = {
    "cut tar": (WHOLE[: HEADER + 700], f"URL/x.tar is cut in 000002.jpg, at offset {HEADER + 512}."),
    "tar header damaged": (
        WHOLE[:HEADER] + bytes(512) + WHOLE[HEADER + 512 :],
        f"URL/x.tar is damaged at offset {HEADER}: no header, and yet not its end.",
    ),
    "zero-byte picture": (tar_bytes([*GOOD, ("bad.jpg", b"")]), ("x.tar/bad", ".jpg: no bytes at all")),
    "JPEG bomb": (tar_bytes([*GOOD, ("bad.jpg", bomb("JPEG"))]), ("x.tar/bad", f".jpg: {TOO_MANY}")),
    "PNG bomb": (tar_bytes([*GOOD, ("bad.png", bomb("PNG"))]), ("x.tar/bad", f".png: {TOO_MANY}")),
    "duplicate keys": (tar_bytes([*GOOD, ("000001.jpg", picture(9))]), "URL/x.tar holds 000001.jpg twice."),
    "label beyond all classes": (
        tar_bytes([*GOOD, ("bad.jpg", picture(9)), ("bad.cls", b"9" * 19)]),
        f"URL/x.tar: bad.cls holds '{'9' * 19}', not a class number.",
    ),
}


def indexed(url: str, data: bytes) -> object:
    """What indexing comes to: the error, or the samples with their bytes and those that are left out."""
    storage = open_storage(url)
    storage.write("x.tar", data)
    storage.write("y.tar", tar_bytes(shard_members(9, 2)))
    try:
        dataset = open_dataset(url)
    except ShardError as error:
        assert not storage.exists("index/root.json")
        return error.message.replace(storage.url, "URL")
    count = range(len(dataset))
    return [dataset.key(number) for number in count], dataset.read(count), list(dataset.left_out_samples())


def verified(url: str, before: bytes, data: bytes) -> list[tuple[str, str, str]]:
    """What verifying finds in a shard that was `before` when it was indexed."""
    storage = open_storage(url)
    storage.write("x.tar", before)
    storage.write("y.tar", tar_bytes(shard_members(9, 2)))
    open_dataset(url)
    if data != before:
        time.sleep(0.02)  # a file's tag is its time, and the clock of file systems is coarse
        storage.write("x.tar", data)
    return [
        (fault.shard.removeprefix(storage.url), fault.key, fault.reason.replace(storage.url, "URL"))
        for fault in verify(url).faults
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_same_in_s3_and_in_a_folder(
    tmp_path: Path, fault: str, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_s3.use(monkeypatch)
    data, expected = FAULTS[fault]
    bucket = f"s3://{moto_s3.new_bucket()}"
    found = indexed(f"{bucket}/indexed", data)
    if isinstance(expected, str):
        assert found == expected
    else:
        keys = [*(f"x.tar/00000{n}" for n in range(4)), "y.tar/000009", "y.tar/000010"]
        pictures = [member for name, member in (*GOOD, *shard_members(9, 2)) if name.endswith(".jpg")]
        assert found == (keys, pictures, [expected])
    assert found == indexed(str(tmp_path / "indexed"), data)
    before = WHOLE if isinstance(expected, str) else data  # what no index is made of came later
    faults = verified(f"{bucket}/verified", before, data)
    assert faults == verified(str(tmp_path / "verified"), before, data)
    if isinstance(expected, str):
        assert faults[1] == ("/x.tar", "", expected.removeprefix("URL/x.tar").strip(" :."))  # first, that it changed
    else:
        assert faults == [("/x.tar", "bad", f"left out of the index: {expected[1]}")]
