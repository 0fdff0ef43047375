"""What only a folder can show: no half-written files, rights, links, files that change under a read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.storage import AccessDeniedError, NotFoundError, ObjectChangedError, StorageError, open_storage
from jobs.storage.base import write_atomically


def test_a_failed_write_leaves_the_old_bytes_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail() -> None:
        with write_atomically(path) as descriptor:
            os.write(descriptor, b"half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_create_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    storage = open_storage(str(tmp_path))
    assert storage.create("x", b"first")
    assert not storage.create("x", b"second")
    assert storage.read("x") == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    open_storage(str(tmp_path)).write("x", b"1")
    reference = tmp_path / "reference"
    reference.touch()
    assert (tmp_path / "x").stat().st_mode == reference.stat().st_mode


def test_missing_rights_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "sub"))

    monkeypatch.setattr(Path, "mkdir", refuse)  # the tests may run as root, whom no mode bits stop
    with pytest.raises(AccessDeniedError, match="No permission"):
        open_storage(str(tmp_path)).write("sub/x", b"1")


def test_a_folder_is_not_an_object(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    storage = open_storage(tmp_path.as_uri())
    assert storage.url == str(tmp_path)
    with pytest.raises(NotFoundError):
        storage.stat("folder")
    assert list(storage.list()) == []


def test_delete_takes_empty_folders_along_but_never_the_root(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "root"))
    for key in ("checkpoints/step-1/state.pt", "checkpoints/step-1/manifest.json", "checkpoints/step-2/state.pt"):
        storage.write(key, b"1")
    storage.delete("checkpoints/step-1/state.pt")
    assert (tmp_path / "root/checkpoints/step-1").is_dir()
    storage.delete("checkpoints/step-1/manifest.json")
    assert not (tmp_path / "root/checkpoints/step-1").exists()
    storage.delete("checkpoints/step-2/state.pt")
    assert list((tmp_path / "root").iterdir()) == []


def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))

    def work(number: int) -> None:
        for turn in range(200):
            key = f"a/b/c/{number}"
            storage.write(key, b"%d" % turn)
            assert storage.read(key) == b"%d" % turn
            storage.delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(tmp_path.iterdir()) == []


SIZE = 300_000


def test_a_file_that_is_cut_or_rewritten_while_it_is_read_is_refused(
    tmp_path: Path, between_pieces: list[Callable[[], object]]
) -> None:
    storage, path = open_storage(str(tmp_path)), tmp_path / "x"

    def rewrite() -> None:
        with path.open("r+b") as file:
            file.write(b"new")
        os.utime(path, ns=(0, 0))  # the clock of file systems is coarse

    for event in (lambda: os.truncate(path, 150_000), rewrite):
        path.write_bytes(os.urandom(SIZE))
        between_pieces.append(event)
        with pytest.raises(ObjectChangedError, match="x was changed while"):
            storage.read_range("x", 0, SIZE)


def test_a_file_that_is_removed_or_replaced_while_it_is_read_is_read_whole(
    tmp_path: Path, between_pieces: list[Callable[[], object]]
) -> None:
    storage, data = open_storage(str(tmp_path)), os.urandom(SIZE)
    for event in (lambda: storage.delete("x"), lambda: storage.write("x", b"new")):
        storage.write("x", data)
        tag = storage.stat("x").etag
        between_pieces.append(event)
        assert storage.read_range("x", 0, SIZE, etag=tag) == data
        with pytest.raises(StorageError):
            storage.read_range("x", 0, SIZE, etag=tag)


def test_a_file_cut_before_the_read_is_refused_by_its_tag_and_never_short(tmp_path: Path) -> None:
    storage, path = open_storage(str(tmp_path)), tmp_path / "x"
    path.write_bytes(os.urandom(SIZE))
    tag = storage.stat("x").etag
    os.truncate(path, 1000)
    with pytest.raises(ObjectChangedError):
        storage.read_range("x", 0, SIZE, etag=tag)
    with pytest.raises(StorageError, match="ends before byte"):
        storage.read_range("x", 0, SIZE)


def test_links_to_folders_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "x").write_bytes(b"1")
    root = tmp_path / "root"
    (root / "own").mkdir(parents=True)
    (root / "own" / "y").write_bytes(b"2")
    (root / "a").symlink_to("../elsewhere")
    (root / "b").symlink_to("../elsewhere")  # two links to one folder are two folders
    (root / "own" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "itself").symlink_to(".")
    (root / "gone").symlink_to("nowhere")
    storage = open_storage(str(root))
    assert [item.key for item in storage.list()] == ["a/deep/x", "b/deep/x", "own/y"]
    assert [item.key for item in storage.list("b/")] == ["b/deep/x"]
    assert list(storage.list(recursive=False)) == []
    assert storage.read("b/deep/x") == b"1"


def test_a_folder_that_cannot_be_read_is_said_and_one_that_goes_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"1")
    real: Callable[..., Any] = os.scandir
    error: OSError = PermissionError(errno.EACCES, "denied", str(tmp_path / "b"))

    def scan(path: Path) -> Any:  # noqa: ANN401 - an iterator that is a context, which has no public name
        if Path(path).name == "b":
            raise error
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)  # the tests may run as root, whom no mode bits stop
    storage = open_storage(str(tmp_path))
    with pytest.raises(AccessDeniedError, match=f"No permission for {tmp_path / 'b'}"):
        storage.list()
    assert [item.key for item in storage.list("c")] == ["c/x"]  # what is not asked for need not be readable
    error = FileNotFoundError(errno.ENOENT, "gone")
    assert [item.key for item in storage.list()] == ["a/x", "c/x"]
    assert list(open_storage(str(tmp_path / "nowhere")).list()) == []
