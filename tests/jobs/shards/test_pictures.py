"""Sources of pictures besides a folder: tables of paths and URLs, and existing shards."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from jobs.errors import UserError
from jobs.shards import web
from jobs.shards.dataset import open_dataset
from jobs.shards.decode import PictureError
from jobs.shards.pack import pack
from jobs.shards.pictures import open_pictures
from jobs.storage import AddressError, open_storage
from jobs.storage.retry import Patience
from tests.jobs.shards.made import make_shards, picture, shard_members, tar_bytes
from tests.s3 import S3Server


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server with one picture, a page that is busy twice, one that is always, and a body that stops early."""
    asked: list[str] = []

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            busy = self.path == "/down" or (self.path == "/busy.jpg" and asked.count(self.path) < 3)
            found = self.path in ("/5.jpg", "/busy.jpg", "/cut.jpg")
            self.send_response(503 if busy else 200 if found else 404)
            self.send_header("Content-Length", str(len(picture(5))))
            self.end_headers()
            self.wfile.write(picture(5)[:100] if self.path == "/cut.jpg" else picture(5))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_table_names_files_in_folders_in_s3_and_on_the_web(
    tmp_path: Path, site: str, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    bucket = rclone_s3.new_bucket()
    open_storage(f"s3://{bucket}/deep").write("3.jpg", picture(3))
    (tmp_path / "lists").mkdir()
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}, odd.jpg").write_bytes(picture(number))
    rows = [
        f"{tmp_path}/photos/0, odd.jpg",
        "../photos/1, odd.jpg",
        f"file://{tmp_path}/photos/2, odd.jpg",
        f"s3://{bucket}/deep/3.jpg",
        f"{site}/5.jpg",
    ]
    (tmp_path / "lists" / "all.csv").write_text(
        "note,path,label\n" + "".join(f'x,"{row}",{label}\n' for row, label in zip(rows, [4, 0, "", 7, 4], strict=True))
    )
    pictures = open_pictures(str(tmp_path / "lists" / "all.csv"))
    assert [pictures.read(number) for number in range(5)] == [picture(number) for number in (0, 1, 2, 3, 5)]
    assert pictures.labels.tolist() == [4, 0, -1, 7, 4]
    assert pictures.classes == []
    assert [pictures.name(number) for number in range(5)] == rows


def test_a_list_may_lie_in_s3_with_paths_from_where_it_lies(
    rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    storage = open_storage(f"s3://{rclone_s3.new_bucket()}/set")
    storage.write("photos/1.jpg", picture(1))
    storage.write("list.csv", b"path\nphotos/1.jpg\n")
    assert open_pictures(f"{storage.url}/list.csv").read(0) == picture(1)


@pytest.mark.parametrize("kind", ["csv", "parquet", "parquet dictionary"])
def test_labels_that_are_names_are_numbered_by_the_alphabet(tmp_path: Path, kind: str) -> None:
    names, labels = [f"{n}.jpg" for n in range(4)], ["dog", "cat", None, "dog"]
    path = tmp_path / f"list.{kind.split()[0]}"
    if kind == "csv":
        path.write_text("url,label\n0.jpg,dog\n1.jpg, cat\n2.jpg,\n3.jpg,dog\n")
    else:
        column = pa.array(labels)
        table = pa.table({"url": names, "label": column.dictionary_encode() if "dictionary" in kind else column})
        pyarrow.parquet.write_table(table, path)
    pictures = open_pictures(str(path))
    assert pictures.labels.tolist() == [1, 0, -1, 1]
    assert pictures.classes == ["cat", "dog"]


def test_labels_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pyarrow.parquet.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "label": pa.array([7, None], pa.int16())}), path)
    assert open_pictures(str(path)).labels.tolist() == [7, -1]
    (tmp_path / "list.csv").write_text("path,label\na.jpg,007\nb.jpg,3\n")
    assert open_pictures(str(tmp_path / "list.csv")).labels.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.jpg,1\n", "has the columns file, label: which holds the pictures"),
        ("path,url\na.jpg,b.jpg\n", "has the columns path, url"),
        ("path\n", "lists no pictures"),
        ("path,label\na.jpg,1\n,2\n", "names no picture in row 2"),
        ("path,label\na.jpg,-3\n", "has the label -3"),
        ("path,label\na.jpg,1\nb.jpg,1000000\n", "has the label 1000000.* from 0 to 999,999"),
        (f"path,label\na.jpg,1\nb.jpg,{2**64}\n", f"has the label {2**64}"),
        ("path,label\na.jpg\n", "cannot be read as a table"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        open_pictures(str(tmp_path / "list.csv"))
    assert caught.value.hint


def test_the_largest_label_is_taken_and_one_beyond_64_bits_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pyarrow.parquet.write_table(pa.table({"path": ["a.jpg"], "label": [999_999]}), path)
    assert open_pictures(str(path)).labels.tolist() == [999_999]
    pyarrow.parquet.write_table(pa.table({"path": ["a.jpg"], "label": pa.array([2**63], pa.uint64())}), path)
    with pytest.raises(UserError, match=f"has the label {2**63}"):
        open_pictures(str(path))


def test_a_table_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as a table"):
        open_pictures(str(path))
    pyarrow.parquet.write_table(pa.table({"path": ["a.jpg"], "label": [0.5]}), path)
    with pytest.raises(UserError, match=r"column label of .* holds double, not text"):
        open_pictures(str(path))
    (tmp_path / "list.csv").write_text("path\ngs://bucket/a.jpg\n")
    with pytest.raises(AddressError, match="unknown scheme"):
        open_pictures(str(tmp_path / "list.csv")).read(0)


def test_the_fingerprint_follows_rows_and_labels(tmp_path: Path) -> None:
    prints = set()
    for text in (
        "path\na\nb\n",
        "path\nb\na\n",
        "path,label\na,1\nb,\n",
        "path,label\na,x\nb,\n",
        "path,label\na,y\nb,\n",
    ):
        (tmp_path / "list.csv").write_text(text)
        prints.add(open_pictures(str(tmp_path / "list.csv")).fingerprint)
    assert len(prints) == 5


def test_a_listed_picture_that_is_gone_is_named_and_can_be_left_out(tmp_path: Path, site: str) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "list.csv").write_text(f"path\na.jpg\ngone.jpg\n{site}/none.jpg\n{site}/5.jpg\n")
    with pytest.raises(UserError, match=r"2 of 4 .*gone\.jpg: there is no such file; .*: the server answered 404"):
        pack(str(tmp_path / "list.csv"), str(tmp_path / "out"), shard_bytes=10**6)
    packing = pack(str(tmp_path / "list.csv"), str(tmp_path / "out"), shard_bytes=10**6, skip_unreadable=True)
    assert (packing.parts[""].samples, len(packing.left_out)) == (2, 2)
    assert set(open_dataset(str(tmp_path / "out")).read(range(2))) == {picture(1), picture(5)}


def test_the_web_is_asked_again_where_that_may_help(site: str) -> None:
    patience = Patience(0.3, base=0.001)
    assert web.fetch(f"{site}/busy.jpg", patience) == picture(5)
    for page, said in (
        ("/down", "answered 503"),
        ("/none.jpg", "answered 404"),
        ("/cut.jpg", "cannot be fetched"),
    ):
        with pytest.raises(PictureError, match=said):
            web.fetch(f"{site}{page}", patience)
    with pytest.raises(PictureError, match="cannot be fetched"):
        web.fetch("http://127.0.0.1:9/x.jpg", patience)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a b.jpg", "http://127.0.0.1:port/x.jpg", "http://[bad/x.jpg"])
def test_what_is_no_url_is_said_without_trying_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise AssertionError("it was tried again")

    monkeypatch.setattr(web.Tries, "wait", refuse)
    with pytest.raises(PictureError, match="it is no URL"):
        web.fetch(url)


def test_keys_with_empty_parts_are_packed_from_s3(
    tmp_path: Path, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_s3.use(monkeypatch)
    storage = open_storage(f"s3://{moto_s3.new_bucket()}/photos")
    for number, key in enumerate(("/0.jpg", "cat//1.jpg", "cat/2.jpg")):
        storage.write(key, picture(number))
    pictures = open_pictures(storage.url)
    assert [(pictures.name(number), int(pictures.labels[number])) for number in range(3)] == [
        ("/0.jpg", -1),
        ("cat//1.jpg", 0),
        ("cat/2.jpg", 0),
    ]
    pack(storage.url, str(tmp_path / "out"), shard_bytes=10**6)
    assert set(open_dataset(str(tmp_path / "out")).read(range(3))) == {picture(number) for number in range(3)}
    (tmp_path / "list.csv").write_text(f"path\n{storage.url}/cat//1.jpg\n{storage.url}//0.jpg\n")
    listed = open_pictures(str(tmp_path / "list.csv"))
    assert [listed.read(number) for number in range(2)] == [picture(1), picture(0)]


def test_more_folders_than_classes_can_be_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(picture(1))
    monkeypatch.setattr("jobs.shards.pack.MOST_LABEL", 1)
    with pytest.raises(UserError, match="has 3 classes, more than 2"):
        pack(str(tmp_path / "photos"), str(tmp_path / "out"), shard_bytes=10**6)
    assert not (tmp_path / "out").exists()


def test_a_linked_folder_is_a_class(tmp_path: Path) -> None:
    for folder in ("photos/cat", "elsewhere/dog"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.jpg").write_bytes(picture(1))
    (tmp_path / "photos" / "dog").symlink_to("../elsewhere/dog")
    pictures = open_pictures(str(tmp_path / "photos"))
    assert pictures.classes == ["cat", "dog"]
    assert pictures.read(1) == picture(1)


def test_shards_are_packed_again_with_labels_and_names(tmp_path: Path) -> None:
    make_shards(tmp_path / "old", [30, 25, 5], ragged=True)
    (tmp_path / "old" / "classes.json").write_text('["cat", "dog", "eel"]')
    pattern = f"{tmp_path}/old/part-{{000000..000002}}.tar"
    for number, source in enumerate((str(tmp_path / "old"), pattern)):
        packing = pack(source, str(tmp_path / f"new{number}"), shard_bytes=10**6, shard_samples=40, seed=2)
        assert packing.classes == ["cat", "dog", "eel"]
        old, new = open_dataset(str(tmp_path / "old")), open_dataset(str(tmp_path / f"new{number}"))
        assert new.counts.tolist() == [40, 20]
        assert old.labels is not None
        assert new.labels is not None
        before = list(zip(old.read(range(60)), old.labels.tolist(), strict=True))
        after = list(zip(new.read(range(60)), new.labels.tolist(), strict=True))
        assert sorted(after) == sorted(before)
        assert after != before


def test_shards_with_a_damaged_sample_are_packed_without_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    cut = picture(9, height=64, width=64)[:900]
    (tmp_path / "old" / "x.tar").write_bytes(tar_bytes([("cut.jpg", cut), *shard_members(0, 3)]))
    packing = pack(str(tmp_path / "old"), str(tmp_path / "new"), shard_bytes=10**6, skip_unreadable=True)
    assert packing.parts[""].samples == 3
    ((_, name, reason),) = packing.left_out
    assert name == "x.tar/cut"
    assert reason.startswith("cannot be decoded")


def test_shards_are_not_packed_onto_themselves(tmp_path: Path) -> None:
    make_shards(tmp_path / "set" / "train", [3])
    for destination in ("set/train", "set"):
        with pytest.raises(UserError, match="holds the source itself"):
            pack(str(tmp_path / "set" / "train"), str(tmp_path / destination), shard_bytes=10**6, overwrite=True)
    assert len(open_dataset(str(tmp_path / "set" / "train"))) == 3
