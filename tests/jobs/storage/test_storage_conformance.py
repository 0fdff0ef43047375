"""What every storage promises, over a folder, rclone's S3, moto's S3, and a cache in front of moto's."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.storage import (
    AddressError,
    NotFoundError,
    ObjectChangedError,
    Storage,
    StorageError,
    cached,
    join_url,
    open_storage,
    split_url,
)
from tests.s3 import S3Server


@pytest.fixture(params=["local", "rclone", "moto", "cached moto"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server | None:
    if kind == "local":
        return None
    found: S3Server = request.getfixturevalue(f"{kind.removeprefix('cached ')}_s3")
    found.use(monkeypatch)
    return found


@pytest.fixture
def storage(kind: str, server: S3Server | None, tmp_path: Path) -> Storage:
    url = str(tmp_path / "root") if server is None else f"s3://{server.new_bucket()}/some/prefix"
    storage = open_storage(url)
    return cached(storage, tmp_path / "root" / "cache", 100 << 20) if kind.startswith("cached") else storage


def test_written_bytes_come_back_whole_and_in_ranges(storage: Storage) -> None:
    data = os.urandom(3_000_001)
    storage.write("a/b.bin", data)
    assert storage.read("a/b.bin") == data
    assert storage.read_range("a/b.bin", 1_000_000, 2_500_000) == data[1_000_000:2_500_000]
    assert storage.read_range("a/b.bin", 3_000_000, 3_000_001) == data[-1:]
    assert storage.read_range("a/b.bin", 7, 7) == b""
    assert storage.stat("a/b.bin").size == len(data)


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.write("empty", b"")
    assert storage.exists("empty")
    assert storage.read("empty") == b""


def test_listing_is_sorted_and_honours_prefix_and_depth(storage: Storage) -> None:
    assert list(storage.list()) == []
    for key in ("b/two", "a", "b/one", "b/deep/x", "bc"):
        storage.write(key, key.encode())
    assert [item.key for item in storage.list()] == ["a", "b/deep/x", "b/one", "b/two", "bc"]
    assert [item.key for item in storage.list("b/")] == ["b/deep/x", "b/one", "b/two"]
    assert [item.key for item in storage.list("b/", recursive=False)] == ["b/one", "b/two"]
    assert [item.key for item in storage.list("b/t")] == ["b/two"]
    assert [item.key for item in storage.list(recursive=False)] == ["a", "bc"]
    assert [item.size for item in storage.list("bc")] == [2]


def test_listing_and_stat_agree_on_the_tag_and_a_rewrite_changes_it(storage: Storage) -> None:
    storage.write("x", b"first")
    (listed,) = storage.list()
    assert storage.stat("x") == listed
    assert storage.read_range("x", 0, 5, etag=listed.etag) == b"first"
    storage.forget("x")  # whatever was kept, the bytes are there
    assert storage.read_range("x", 0, 5, etag=listed.etag) == b"first"
    storage.forget("x")
    storage.write("x", b"other")
    assert storage.stat("x").etag != listed.etag
    with pytest.raises(ObjectChangedError, match="x was changed"):
        storage.read_range("x", 0, 5, etag=listed.etag)


def test_a_range_beyond_the_end_is_an_error_and_never_short(storage: Storage) -> None:
    storage.write("x", b"0123456789")
    for start, stop in ((5, 11), (10, 12), (20, 30)):
        with pytest.raises(StorageError, match=r"x (ends before|is shorter)"):
            storage.read_range("x", start, stop)


def test_a_missing_object_is_named(storage: Storage) -> None:
    storage.write("there", b"1")
    assert not storage.exists("gone")
    for call in (storage.stat, storage.read):
        with pytest.raises(NotFoundError, match="gone") as caught:
            call("gone")
        assert isinstance(caught.value, UserError)
        assert caught.value.hint
    with pytest.raises(NotFoundError, match="gone"):
        storage.read_range("gone", 0, 4)
    storage.delete("gone")


def test_delete_removes(storage: Storage) -> None:
    storage.write("x", b"1")
    storage.delete("x")
    assert not storage.exists("x")


def test_create_makes_a_new_object(storage: Storage) -> None:
    assert storage.create("attempt/1", b"me")
    assert storage.read("attempt/1") == b"me"


def test_of_many_creators_one_wins_where_the_server_keeps_conditions(storage: Storage, server: S3Server | None) -> None:
    barrier = threading.Barrier(6)

    def attempt(number: int) -> bool:
        barrier.wait()
        return storage.create("attempt/1", f"writer {number}".encode())

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(attempt, range(6)))
    if server is None or server.conditional_writes:
        assert sum(won) == 1
        assert storage.read("attempt/1") == f"writer {won.index(True)}".encode()
        assert not storage.create("attempt/1", b"late")
    else:
        # rclone ignores If-None-Match; the day it does not, this line says so.
        assert won == [True] * 6


def test_files_go_up_and_come_down_whole(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(9 << 20))  # more than one part of a multipart upload
    storage.upload("up/file.bin", source)
    storage.download("up/file.bin", tmp_path / "new" / "copy.bin")
    assert (tmp_path / "new" / "copy.bin").read_bytes() == source.read_bytes()
    with pytest.raises(NotFoundError):
        storage.download("up/none.bin", tmp_path / "none.bin")
    with pytest.raises(NotFoundError):
        storage.upload("up/x", tmp_path / "does-not-exist")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("root",)) == ["new", "source.bin"]


@pytest.mark.parametrize("key", ["", "../x", "a/../../x", "./x", "a/.", "a/"])
def test_a_key_never_leaves_the_root(storage: Storage, key: str) -> None:
    refuses(storage, key)


@pytest.mark.parametrize("key", ["/etc/passwd", "a//b"])
def test_in_a_folder_no_part_of_a_key_is_empty(tmp_path: Path, key: str) -> None:
    refuses(open_storage(str(tmp_path)), key)


def refuses(storage: Storage, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.read_range(key, 0, 1),
        lambda: storage.stat(key),
        lambda: storage.write(key, b""),
        lambda: storage.create(key, b""),
        lambda: storage.delete(key),
    ]
    for call in calls:
        with pytest.raises(AddressError):
            call()


def test_s3_keys_may_have_empty_parts(tmp_path: Path, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_s3.use(monkeypatch)
    storage = open_storage(f"s3://{moto_s3.new_bucket()}/some/prefix")
    keys = ["/first", "a//b", "a/b"]
    for key in keys:
        storage.write(key, key.encode())
    assert [item.key for item in storage.list()] == keys
    assert [item.key for item in storage.list("a//")] == ["a//b"]
    for item in storage.list():
        assert storage.read_range(item.key, 0, item.size, etag=item.etag) == item.key.encode()
    assert open_storage(f"{storage.url}/a/").read("/b") == b"a//b"
    storage.download("a//b", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"a//b"
    storage.delete("a//b")
    assert [item.key for item in storage.list()] == ["/first", "a/b"]


def test_a_storage_survives_pickling_and_threads(storage: Storage) -> None:
    storage.write("x", b"0123456789")
    copy: Storage = pickle.loads(pickle.dumps(storage))
    assert copy.url == storage.url
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: copy.read_range("x", i, i + 1), range(10))) == [b"%d" % i for i in range(10)]


def test_a_storage_opens_again_by_its_url(storage: Storage) -> None:
    storage.write("x", b"1")
    assert open_storage(storage.url).read("x") == b"1"


def test_a_storage_survives_a_fork(storage: Storage) -> None:
    storage.write("x", b"parent")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, storage.read("x"))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"parent"
    os.waitpid(child, 0)
    assert storage.read("x") == b"parent"


@pytest.mark.parametrize(
    ("url", "parent", "name"),
    [
        ("s3://b/a/x.tar", "s3://b/a", "x.tar"),
        ("s3://b/x.tar", "s3://b", "x.tar"),
        ("data/x.tar", "data", "x.tar"),
        ("x.tar", ".", "x.tar"),
        ("/x.tar", "/", "x.tar"),
    ],
)
def test_urls_split_and_join(url: str, parent: str, name: str) -> None:
    assert split_url(url) == (parent, name)
    assert open_storage(join_url(parent, name)).url == open_storage(url).url


@pytest.mark.parametrize("url", ["", "s3://", "gs://bucket/x", "http://host/x"])
def test_an_impossible_url_is_refused(url: str) -> None:
    with pytest.raises(AddressError):
        open_storage(url)
