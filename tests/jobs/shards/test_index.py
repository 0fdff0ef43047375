"""Finding shards and their index: built once, the same everywhere, refused where it does not fit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.errors import UserError
from jobs.shards.dataset import open_dataset
from jobs.shards.errors import DamagedSampleError, IndexMismatchError, ShardError, SourceError
from jobs.shards.sources import expand_braces, find_shards
from jobs.storage import AccessDeniedError, ObjectChangedError, open_storage
from jobs.storage.local import LocalStorage
from tests.jobs.shards.made import make_shards, picture, shard_members, tar_bytes
from tests.s3 import S3Server


def test_a_data_set_knows_its_samples(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", [4, 6], ragged=True)
    dataset = open_dataset(str(tmp_path / "data"))
    assert len(dataset) == 10
    assert dataset.counts.tolist() == [4, 6]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [n % 3 for n in range(10)]
    assert dataset.labels.dtype == np.int64
    assert dataset.num_classes == 3
    assert dataset.sizes.tolist() == [[5 + n % 4, 6 + n % 3] for n in range(10)]
    assert dataset.sizes.dtype == np.int32
    assert dataset.max_size == (8, 8)
    assert dataset.key(0) == "part-000000.tar/000000"
    assert dataset.key(9) == "part-000001.tar/000009"
    expected = [shard_members(n, 1, ragged=True)[0][1] for n in (9, 0, 5)]
    assert dataset.read([9, 0, 5]) == expected
    assert pickle.loads(pickle.dumps(dataset)).read([9, 0, 5]) == expected
    with pytest.raises(IndexError):
        dataset.key(10)


def test_the_largest_picture_is_one_picture_and_not_a_bound(tmp_path: Path) -> None:
    wide, tall = picture(0, height=4, width=40), picture(1, height=30, width=5)
    open_storage(str(tmp_path)).write("x.tar", tar_bytes([("a.jpg", wide), ("b.jpg", tall)]))
    open_storage(str(tmp_path)).write("y.tar", tar_bytes([("c.jpg", picture(2))]))
    dataset = open_dataset(str(tmp_path))
    assert dataset.max_size == (30, 40)
    assert dataset.max_pixels == 160


def test_samples_that_cannot_be_used_are_counted_named_and_not_served(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("x.tar", tar_bytes([("bad.jpg", b""), *shard_members(0, 2)]))
    storage.write("y.tar", tar_bytes(shard_members(2, 3)))
    storage.write("z.tar", tar_bytes([*shard_members(5, 1), ("lone.cls", b"1"), ("page.jpg", b"<html>")]))
    for _ in range(2):
        dataset = open_dataset(str(tmp_path))
        assert (len(dataset), dataset.left_out) == (6, 3)
        assert dataset.read(range(6)) == [shard_members(n, 1)[0][1] for n in range(6)]
        assert list(dataset.left_out_samples()) == [
            ("x.tar/bad", ".jpg: no bytes at all"),
            ("z.tar/lone", "no picture, only .cls"),
            ("z.tar/page", ".jpg: neither JPEG, PNG nor WebP"),
        ]


def test_without_any_label_there_are_none(tmp_path: Path) -> None:
    open_storage(str(tmp_path)).write("x.tar", tar_bytes([("a.jpg", picture(0))]))
    dataset = open_dataset(str(tmp_path))
    assert dataset.labels is None
    assert dataset.num_classes == 0


def test_the_index_is_built_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, [3, 2])
    seen: list[tuple[int, int]] = []
    first = open_dataset(str(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "part-000000.tar.json",
        "part-000001.tar.json",
        "root.json",
    ]

    def refuse(*_: object) -> None:
        raise AssertionError("the index was built again")

    monkeypatch.setattr("jobs.shards.indexing.scan_shard", refuse)
    again = open_dataset(str(tmp_path))
    assert again.hash == first.hash
    assert again.sizes.tolist() == first.sizes.tolist()
    with pytest.raises(AssertionError, match="built again"):
        open_dataset(str(tmp_path), rebuild=True)


@pytest.mark.parametrize("server", ["rclone_s3", "moto_s3"])
def test_the_same_shards_have_the_same_hash_on_disk_and_in_s3(
    tmp_path: Path, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3: S3Server = request.getfixturevalue(server)
    s3.use(monkeypatch)
    url = f"s3://{s3.new_bucket()}/datasets/small"
    for path in make_shards(tmp_path / "here", [4, 6], ragged=True):
        open_storage(url).upload(path.name, path)
    local, remote = open_dataset(str(tmp_path / "here")), open_dataset(url)
    assert remote.hash == local.hash
    assert remote.read(range(10)) == local.read(range(10))
    assert open_dataset(f"{url}/part-{{000000..000001}}.tar").hash == local.hash
    assert open_dataset(url).hash == local.hash


def test_the_hash_follows_the_content_alone(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "one", [3, 4])
    first = open_dataset(str(tmp_path / "one")).hash
    shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=shutil.ignore_patterns("index"))
    (tmp_path / "two" / "part-000000.tar").rename(tmp_path / "two" / "aaa.tar")
    assert open_dataset(str(tmp_path / "two")).hash == first
    assert open_dataset([str(shards[0]), str(shards[1])]).hash == first
    assert open_dataset([str(shards[1]), str(shards[0])]).hash != first
    members = shard_members(0, 3)
    members[1] = (members[1][0], b"2")  # another label
    (tmp_path / "two" / "aaa.tar").write_bytes(tar_bytes(members))
    assert open_dataset(str(tmp_path / "two"), rebuild=True).hash != first


def test_a_changed_added_or_removed_shard_is_refused_until_indexed_again(tmp_path: Path) -> None:
    first, second = make_shards(tmp_path, [3, 4])
    open_dataset(str(tmp_path))
    data = second.read_bytes()
    second.write_bytes(data)
    os.utime(second, ns=(1, 1))
    with pytest.raises(IndexMismatchError, match=r"part-000001\.tar was changed since it was indexed") as caught:
        open_dataset(str(tmp_path))
    assert "reco data index --rebuild" in (caught.value.hint or "")
    open_dataset(str(tmp_path), rebuild=True)
    (tmp_path / "part-000002.tar").write_bytes(data)
    with pytest.raises(IndexMismatchError, match=r"before 1 shard was added, part-000002\.tar first"):
        open_dataset(str(tmp_path))
    assert len(open_dataset(str(tmp_path), rebuild=True)) == 11
    first.unlink()
    with pytest.raises(IndexMismatchError, match=r"removed, part-000000\.tar first"):
        open_dataset(str(tmp_path))


def test_a_shard_replaced_after_opening_is_noticed_by_the_next_read(tmp_path: Path) -> None:
    shard = make_shards(tmp_path, [3])[0]
    dataset = open_dataset(str(tmp_path))
    shard.write_bytes(shard.read_bytes())
    os.utime(shard, ns=(1, 1))
    with pytest.raises(ObjectChangedError):
        dataset.read([0])


def test_wrong_bytes_are_fetched_twice_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, [3])
    dataset = open_dataset(str(tmp_path))
    (good,) = dataset.read([1])
    fetches = []
    real = LocalStorage.read_into

    def flip(storage: LocalStorage, key: str, start: int, buffer: memoryview, *, etag: str | None = None) -> None:
        real(storage, key, start, buffer, etag=etag)
        fetches.append(key)
        if len(fetches) <= wrong:
            buffer[5] ^= 1

    monkeypatch.setattr(LocalStorage, "read_into", flip)
    wrong = 1
    assert dataset.read([1]) == [good]
    wrong = 10**6
    fetches.clear()
    with pytest.raises(DamagedSampleError, match=r"part-000000\.tar/000001: its bytes are not those"):
        dataset.read([1])
    assert len(fetches) == 2


@pytest.mark.parametrize("damage", ["cut", "edited", "version", "shard file gone", "shard file edited"])
def test_a_damaged_index_is_refused(tmp_path: Path, damage: str) -> None:
    make_shards(tmp_path, [3, 2])
    open_dataset(str(tmp_path))
    root, file = tmp_path / "index" / "root.json", tmp_path / "index" / "part-000001.tar.json"
    text = root.read_text()
    if damage == "cut":
        root.write_text(text[: len(text) // 2])
    elif damage == "edited":
        document = json.loads(text)
        document["shards"] = document["shards"][::-1]
        root.write_text(json.dumps(document))
    elif damage == "version":
        root.write_text(text.replace('"version":1', '"version":9'))
    elif damage == "shard file gone":
        file.unlink()
    else:
        file.write_text(file.read_text().replace('"labels":[0', '"labels":[1'))
    with pytest.raises(IndexMismatchError) as caught:
        open_dataset(str(tmp_path)).read([4])
    assert "--rebuild" in (caught.value.hint or "")
    assert len(open_dataset(str(tmp_path), rebuild=True).read([4])) == 1


def test_a_cut_shard_leaves_no_index(tmp_path: Path) -> None:
    shard = make_shards(tmp_path, [3, 2])[1]
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(ShardError, match=r"part-000001\.tar"):
        open_dataset(str(tmp_path))
    assert not (tmp_path / "index" / "root.json").exists()


def test_an_index_may_lie_elsewhere_and_hold_those_of_several_data_sets(tmp_path: Path) -> None:
    for name, counts in (("train", [3, 2]), ("valid", [4])):
        make_shards(tmp_path / name, counts)
    elsewhere = str(tmp_path / "elsewhere")
    for _ in range(2):
        assert len(open_dataset(str(tmp_path / "train"), index=elsewhere).read(range(5))) == 5
        assert len(open_dataset(str(tmp_path / "valid"), index=elsewhere).read(range(4))) == 4
        both = open_dataset([str(tmp_path / "valid"), str(tmp_path / "train")], index=elsewhere)
        assert both.counts.tolist() == [4, 3, 2]
    assert not (tmp_path / "train" / "index").exists()


def test_parts_of_one_folder_have_indexes_of_their_own(tmp_path: Path) -> None:
    make_shards(tmp_path, [3, 2, 4])
    whole = open_dataset(str(tmp_path))
    some = open_dataset(f"{tmp_path}/part-{{000001..000002}}.tar")
    assert some.counts.tolist() == [2, 4]
    assert some.read(range(6)) == whole.read(range(3, 9))
    assert open_dataset(str(tmp_path / "part-000001.tar")).counts.tolist() == [2]
    assert open_dataset(str(tmp_path)).hash == whole.hash


def test_a_read_only_place_says_where_else_to_put_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, [3])

    def refuse(*_: object) -> None:
        raise AccessDeniedError("no")

    monkeypatch.setattr(LocalStorage, "write", refuse)
    with pytest.raises(AccessDeniedError, match="index cannot be written") as caught:
        open_dataset(str(tmp_path))
    assert "data.index" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x-{000..002}.tar", ["x-000.tar", "x-001.tar", "x-002.tar"]),
        ("{a,b}/{8..10}.tar", ["a/8.tar", "a/9.tar", "a/10.tar", "b/8.tar", "b/9.tar", "b/10.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_expand(pattern: str, names: list[str]) -> None:
    assert list(expand_braces(pattern)) == names


@pytest.mark.parametrize("pattern", ["x-{000..", "x-}.tar", "x-{a}.tar", "x-{5..1}.tar", "x-{0..99999999}.tar"])
def test_impossible_braces_are_refused(pattern: str) -> None:
    with pytest.raises(SourceError):
        list(expand_braces(pattern))


def test_what_is_not_there_is_said_with_what_might_be_meant(tmp_path: Path) -> None:
    make_shards(tmp_path / "set" / "train", [1])
    make_shards(tmp_path / "flat", [1, 1, 1])
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "x.tar.gz").touch()
    sources: list[tuple[str | list[str], str]] = [
        (str(tmp_path / "nowhere"), "no shards.*reco data pack"),
        (str(tmp_path / "set"), "no shards.*set/train"),
        (str(tmp_path / "flat" / "part"), r"no shards.*part-\{000000\.\.000002\}\.tar"),
        (f"{tmp_path}/flat/part-{{000001..000004}}.tar", r"2 of 4 shards are missing, the first .*part-000003"),
        (str(tmp_path / "flat" / "other.tar"), "no shard .*other.tar"),
        (str(tmp_path / "zipped"), "compressed"),
        (str(tmp_path / "zipped" / "x.tar.gz"), "compressed"),
        ([str(tmp_path / "flat")] * 2, "named twice"),
        ([], "No source"),
    ]
    for source, said in sources:
        with pytest.raises(SourceError, match=said) as caught:
            find_shards(source)
        assert isinstance(caught.value, UserError)
        assert caught.value.hint


def test_an_empty_prefix_and_a_missing_bucket_are_told_apart(
    rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    bucket = rclone_s3.new_bucket()
    with pytest.raises(SourceError, match=f"no shards .* in s3://{bucket}/empty"):
        open_dataset(f"s3://{bucket}/empty")
    with pytest.raises(UserError, match="no bucket never-made"):
        open_dataset("s3://never-made/data")
