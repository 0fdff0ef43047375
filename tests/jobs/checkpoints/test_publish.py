"""A checkpoint exists once its bytes were read back and its manifest is there; then older ones go."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.checkpoints.manifest import list_manifests
from jobs.storage import StorageError
from jobs.storage.local import LocalStorage
from tests.jobs.checkpoints.made import run_folder, save


class Forgetful(LocalStorage):
    """Loses the last byte of what is uploaded, so many times."""

    times = 0

    def upload(self, key: str, path: Path) -> None:
        super().upload(key, path)
        if self.times > 0:
            self.times -= 1
            self.write(key, self.read(key)[:-1])


@pytest.mark.parametrize("times", [1, 2])
def test_what_reads_back_wrong_is_written_again(tmp_path: Path, times: int) -> None:
    folder = run_folder(tmp_path)
    folder.storage = storage = Forgetful(tmp_path)
    storage.times = times
    manifest = save(folder, {"step": 10}, step=10)
    assert storage.times == 0
    assert len(storage.read("checkpoints/step-000000000010/state.pt")) == manifest.size


def test_storage_that_never_gives_back_what_was_written_gets_no_manifest(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.storage = storage = Forgetful(tmp_path)
    storage.times = 99
    with pytest.raises(StorageError, match="written 3 times, and never read back"):
        save(folder, {"step": 10}, step=10)
    assert list_manifests(storage) == []


def test_what_a_killed_attempt_left_unfinished_goes_with_the_old_ones(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.storage.write("checkpoints/step-000000000007/state.pt", b"half")
    folder.storage.write("checkpoints/step-000000000025/state.pt", b"half, but newer than what is kept")
    for step in (10, 20, 30):
        save(folder, {"step": step}, step=step, keep=2)
    left = sorted({stored.key.split("/")[1] for stored in folder.storage.list("checkpoints/")})
    assert left == ["step-000000000020", "step-000000000025", "step-000000000030"]
