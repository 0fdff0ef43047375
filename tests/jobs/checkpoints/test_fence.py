"""Of several attempts that believe to be the run, only the newest writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.checkpoints.fence import Fence, FencedError
from jobs.checkpoints.manifest import list_manifests
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from jobs.storage import Storage, open_storage
from jobs.training.loop import Trainer
from jobs.training.ranks import Ranks
from jobs.training.run import run
from tests.jobs.checkpoints.made import run_folder, save
from tests.pictures import tiny_spec, write_shards
from tests.s3 import S3Server


@pytest.fixture(params=["folder", "moto_s3", "rclone_s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "run"))
    server: S3Server = request.getfixturevalue(request.param)
    server.use(monkeypatch)
    return open_storage(f"s3://{server.new_bucket()}/run")


def test_numbers_rise_and_only_the_newest_attempt_may_write(storage: Storage) -> None:
    first = Fence.take(storage)
    first.check()
    second = Fence.take(storage)
    assert (first.number, second.number) == (1, 2)
    second.check()
    with pytest.raises(FencedError, match=r"attempt 1 .* replaced by attempt 2"):
        first.check()


def test_two_that_took_one_number_are_told_apart_by_what_they_wrote(storage: Storage) -> None:
    """As on an endpoint that ignores the condition of a conditional write."""
    first = Fence.take(storage)
    key = next(stored.key for stored in storage.list("attempts/"))
    storage.write(key, b'{"token": "of another"}')
    with pytest.raises(FencedError):
        first.check()


def test_a_checkpoint_of_a_stale_attempt_never_comes_to_exist(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    stale = Fence.take(folder.storage)
    save(folder, {"step": 10}, step=10, keep=1, fence=stale)
    Fence.take(folder.storage)
    with pytest.raises(FencedError):
        save(folder, {"step": 20}, step=20, keep=1, fence=stale)
    assert [manifest.step for manifest in list_manifests(folder.storage)] == [10]


def test_a_run_that_is_taken_over_stops_and_leaves_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path / "shards", samples=200)
    spec = parse_spec(tiny_spec(shards))
    folder = RunFolder(str(tmp_path / "runs"), "r")
    folder.claim(spec)
    step, seen = Trainer.train_step, {}

    def taken_over_at_step_9(trainer: Trainer, ready: object) -> dict[str, torch.Tensor]:
        if trainer.step == 9:
            Fence.take(folder.storage)
            seen["before"] = {item.key: item.etag for item in folder.storage.list("checkpoints/")}
        return step(trainer, ready)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", taken_over_at_step_9)
    with pytest.raises(FencedError):
        run(spec, folder=folder, ranks=Ranks(0, 1, torch.device("cpu")))
    assert {item.key: item.etag for item in folder.storage.list("checkpoints/")} == seen["before"]
    assert folder.result() is None
    assert max((record["step"] for record in folder.records()), default=0) <= 9
