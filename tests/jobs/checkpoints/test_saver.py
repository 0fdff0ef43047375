"""The saver keeps the state of its step; neither its death nor storage that is away costs the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from jobs.checkpoints.fence import Fence, FencedError
from jobs.checkpoints.load import load_newest
from jobs.checkpoints.manifest import list_manifests
from jobs.checkpoints.saver import Saver
from jobs.errors import RecoError
from jobs.run_folder import Record, RunFolder
from jobs.storage import UnreachableError
from jobs.storage.retry import Patience
from jobs.storage.s3 import S3Storage
from tests.jobs.checkpoints.made import run_folder
from tests.s3 import free_port, serve_rclone

NAMES = {"spec_hash": "s", "dataset_hash": "d"}


def saver_of(folder: RunFolder, *, keep: int = 3, fence: Fence | None = None) -> Saver:
    return Saver(folder, keep=keep, fence=fence, **NAMES)


def record(step: int) -> Record:
    return {"step": step, "pictures": 8 * step, "metrics": {"train/loss": 1.0}}


def steps(folder: RunFolder) -> list[int]:
    return [manifest.step for manifest in list_manifests(folder.storage)]


def test_what_is_kept_is_the_state_of_the_moment_though_training_goes_on(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    weights = torch.zeros(1 << 20)
    with saver_of(folder) as saver:
        for step in (1, 2):
            weights.fill_(step)
            saver.save({"weights": weights}, step=step, records=[record(step)])
            weights.fill_(-1.0)
        saver.finish()
        assert saver.last_saved == 2
    found = load_newest(folder.storage, **NAMES)
    assert found is not None
    assert found[1]["weights"].unique().tolist() == [2.0]
    assert steps(folder) == [2, 1]
    assert [each["step"] for each in folder.records()] == [1, 2]


def test_a_saver_that_is_killed_is_started_again_and_the_checkpoint_is_made(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    with saver_of(folder) as saver:
        assert saver.pid is not None
        os.kill(saver.pid, signal.SIGSTOP)
        saver.save({"step": 5}, step=5, records=[])
        os.kill(saver.pid, signal.SIGKILL)
        saver.finish()
    assert steps(folder) == [5]


def test_a_saver_that_keeps_dying_is_an_error(tmp_path: Path) -> None:
    with saver_of(run_folder(tmp_path)) as saver:
        assert saver.pid is not None
        os.kill(saver.pid, signal.SIGSTOP)
        saver.save({"step": 5}, step=5, records=[])
        for _ in range(3):
            os.kill(saver.pid, signal.SIGKILL)
            saver.look(5.0)
        os.kill(saver.pid, signal.SIGKILL)
        with pytest.raises(RecoError, match="ended 4 times without a checkpoint, last with exit code -9"):
            saver.look(5.0)


def test_storage_that_is_away_costs_a_checkpoint_and_no_record(tmp_path: Path) -> None:
    port = free_port()
    with serve_rclone(tmp_path / "buckets", port=port) as server, pytest.MonkeyPatch.context() as environment:
        server.use(environment)
        (tmp_path / "buckets" / "runs").mkdir()
        folder = RunFolder("s3://runs", "r")
        folder.storage = S3Storage("runs", "r", asking=Patience(1.0))
        saver = saver_of(folder)
        with saver:
            saver.save({"step": 4}, step=4, records=[record(4)])
            saver.finish()
            server.stop()
            saver.save({"step": 8}, step=8, records=[record(8)])
            with pytest.raises(UnreachableError):
                saver.finish()
            assert saver.owing
            with serve_rclone(tmp_path / "buckets", port=port):
                saver.save({"step": 12}, step=12, records=[record(12)])
                saver.finish()
                assert not saver.owing
                assert steps(folder) == [12, 4]
                assert [each["step"] for each in folder.records()] == [4, 8, 12]


def test_a_stale_attempt_hears_that_it_was_replaced(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    stale = Fence.take(folder.storage)
    with saver_of(folder, fence=stale) as saver:
        Fence.take(folder.storage)
        saver.save({"step": 5}, step=5, records=[record(5)])
        with pytest.raises(FencedError):
            saver.finish()
    assert steps(folder) == []
    assert folder.records() == []


def test_it_ends_with_the_trainer(tmp_path: Path) -> None:
    with saver_of(run_folder(tmp_path)) as saver:
        assert saver.pid is not None
        pid = saver.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
