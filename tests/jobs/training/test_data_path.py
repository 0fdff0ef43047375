"""The trainer and its loader together: what the trainer's process never does, and what dies and is bad on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from jobs.loading.batch import Replaced
from jobs.run_folder import RunFolder
from jobs.spec import parse_spec
from jobs.training.loop import Trainer
from jobs.training.plan import PlanError
from jobs.training.quarantine import BadPicturesError, Quarantine
from jobs.training.ranks import Ranks
from jobs.training.run import run
from tests.pictures import damage, tiny_spec, write_shards
from tests.ranks import run_on_ranks
from tests.s3 import S3Server

ALONE = Ranks(0, 1, torch.device("cpu"))

WATCHED = """
    import sys
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    from jobs.training.__main__ import main
    code = main()
    found = sorted({name.partition(".")[0] for name in sys.modules} & {"boto3", "botocore", "simplejpeg", "PIL"})
    print("modules:", found)
    print("tars:", [name for name in opened if name.endswith(".tar")])
    sys.exit(code)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train") / "shards", samples=200)


def folder_for(text: str, tmp_path: Path, run_id: str = "r") -> RunFolder:
    folder = RunFolder(str(tmp_path), run_id)
    folder.claim(parse_spec(text))
    return folder


def test_the_trainers_process_reads_and_decodes_nothing(
    tmp_path: Path, rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_s3.use(monkeypatch)
    assert rclone_s3.folder is not None
    bucket = rclone_s3.new_bucket()
    write_shards(rclone_s3.folder / bucket / "train", samples=200)
    write_shards(rclone_s3.folder / bucket / "probe", samples=80, seed=1)
    spec = tmp_path / "run.yaml"
    spec.write_text(tiny_spec(Path("s3-train"), probe=Path("s3-probe")).replace("s3-", f"s3://{bucket}/"))
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED), str(spec), "--storage", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "modules: []" in ran.stdout
    assert "tars: []" in ran.stdout
    assert "valid/knn" in ran.stdout


def test_a_loader_killed_in_mid_run_changes_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny_spec(shards)
    undisturbed = folder_for(text, tmp_path, "undisturbed")
    run(parse_spec(text), folder=undisturbed, ranks=ALONE)
    step = Trainer.train_step

    def killing(self: Trainer, ready: object) -> object:
        if self.step in (3, 10, 17):
            assert self.data.loader.pid is not None
            os.kill(self.data.loader.pid, signal.SIGKILL)
        return step(self, ready)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", killing)
    killed = folder_for(text, tmp_path, "killed")
    run(parse_spec(text), folder=killed, ranks=ALONE)
    assert weights(killed) == weights(undisturbed)
    assert sum(record["metrics"]["data/loader_restarts"] for record in killed.records()) == 3


def weights(folder: RunFolder) -> str:
    newest = max(item.key for item in folder.storage.list("checkpoints/") if item.key.endswith("state.pt"))
    return hashlib.sha256(folder.storage.read(newest)).hexdigest()


def test_a_few_bad_pictures_are_replaced_listed_and_counted(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=200)
    damage(shards, 2, range(7, 9))
    text = tiny_spec(shards, data__bad_pictures=0.01)
    folder = folder_for(text, tmp_path)
    run(parse_spec(text), folder=folder, ranks=ALONE)
    found = sorted(folder.quarantine(), key=lambda each: each["sample_id"])
    assert [each["key"] for each in found] == ["part-000002.tar/000087", "part-000002.tar/000088"]
    assert all("not those that were indexed" in each["reason"] and each["by"] not in (87, 88) for each in found)
    counted = sum(record["metrics"]["data/replaced"] for record in folder.records())
    lines = [item.key for item in folder.storage.list("quarantine/")]
    assert counted == sum(len(folder.storage.read(key).splitlines()) for key in lines)


def test_too_many_bad_pictures_end_the_run_and_are_listed(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=200)
    damage(shards, 1, range(30))
    text = tiny_spec(shards, data__bad_pictures=0.02)
    folder = folder_for(text, tmp_path)
    with pytest.raises(BadPicturesError, match=r"more than data\.bad_pictures 0\.02 allows \(4\)") as caught:
        run(parse_spec(text), folder=folder, ranks=ALONE)
    assert "reco data verify" in str(caught.value)
    assert len(folder.quarantine()) > 4
    json.dumps(folder.quarantine())


def test_bad_pictures_count_in_every_epoch_however_seldom_is_logged(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=200)
    damage(shards, 1, range(0, 40, 3))
    text = tiny_spec(shards, data__bad_pictures=0.02, train__log_every=500, checkpoint__every="1h")
    with pytest.raises(BadPicturesError, match=r"pictures of epoch 0 cannot be used"):
        run(parse_spec(text), folder=folder_for(text, tmp_path), ranks=ALONE)


def test_bad_pictures_that_an_earlier_attempt_met_count_after_a_restart(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "r")
    first, second = (Quarantine(folder, rank=rank, samples=100, allowed=0.02) for rank in (1, 0))
    first.add(Replaced(step=step, epoch=0, sample_id=step, key="k", reason="bad", by=9) for step in (1, 2, 5))
    first.write()
    second.take_up(epoch=0, step=4)
    second.add([Replaced(step=5, epoch=0, sample_id=5, key="k", reason="bad", by=9)])
    assert second.met(0) == 3
    with pytest.raises(BadPicturesError):
        second.check(second.met(0), 0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_probe_does_without_a_damaged_picture(tmp_path: Path, ranks: int, caplog: pytest.LogCaptureFixture) -> None:
    shards, probe = write_shards(tmp_path / "shards", samples=200), write_shards(tmp_path / "probe", samples=80, seed=1)
    damage(probe, 1, range(3, 4))
    text = tiny_spec(shards, probe=probe, train__epochs=1, data__bad_pictures=0.02)
    folder = folder_for(text, tmp_path)
    if ranks == 1:
        run(parse_spec(text), folder=folder, ranks=ALONE)
        assert "the probe does without part-000001.tar/000043: " in caplog.text
    else:
        run_on_ranks(train_on_a_rank, ranks, text, str(tmp_path))
    result = folder.result()
    assert result is not None
    assert result["valid/linear"] > 50


def train_on_a_rank(rank: int, world_size: int, text: str, storage: str) -> None:
    run(parse_spec(text), folder=RunFolder(storage, "r"), ranks=Ranks(rank, world_size, torch.device("cpu")))


def test_a_probe_with_too_many_damaged_pictures_is_no_probe(tmp_path: Path) -> None:
    shards, probe = write_shards(tmp_path / "shards", samples=200), write_shards(tmp_path / "probe", samples=80, seed=1)
    damage(probe, 0, range(0, 40, 4))
    text = tiny_spec(shards, probe=probe, train__epochs=1, data__bad_pictures=0.02)
    with pytest.raises(BadPicturesError, match=r"10 of the 80 pictures of a probe set cannot be used.* allows \(2\)"):
        run(parse_spec(text), folder=folder_for(text, tmp_path), ranks=ALONE)


def test_a_set_with_too_many_unusable_pictures_is_refused_before_it_begins(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=200)
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "a.png").write_bytes(b"")
    subprocess.run(["tar", "rf", str(shards / "part-000000.tar"), "-C", str(tmp_path / "zero"), "a.png"], check=True)
    text = tiny_spec(shards, data__bad_pictures=0)
    with pytest.raises(PlanError, match=r"1 of the 201 pictures in data\.train cannot be used"):
        run(parse_spec(text), folder=folder_for(text, tmp_path), ranks=ALONE)
