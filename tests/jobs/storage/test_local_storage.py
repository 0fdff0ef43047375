"""What only a folder can show: no half-written files, rights, links."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobs.storage import AccessDeniedError, NotFoundError, open_storage
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
